"""A network module by module: output shapes, parameters and MACs, counted on the meta device as `cost` counts them."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densekit.config import ModelConfig
from densekit.errors import InvalidInput
from densekit.models.cost import as_published, cost_of
from densekit.models.factory import build


@dataclass(frozen=True)
class Module:
    """One module; numbers are of one image."""

    name: str
    """Dotted, as in the state dict; empty for the network itself."""
    kind: str
    """Its class, and of convolutions and pools the kernel and the stride: Conv2d 3x3/2."""
    output: tuple[int, ...]
    """Shape without the batch; empty where it is not called or gives no tensor."""
    input: tuple[int, ...]
    """Of its first argument, likewise."""
    parameters: int
    """Its own and those of the modules in it."""
    macs: int
    """Likewise."""
    own_parameters: int
    own_macs: int
    leaf: bool
    """Whether there are no modules in it."""

    @property
    def depth(self) -> int:
        """0 for the network itself, 1 for its children."""
        return self.name.count(".") + 1 if self.name else 0

    @property
    def is_layer(self) -> bool:
        """Whether it computes something itself."""
        return bool((self.leaf and self.kind != "Identity") or self.own_parameters or self.own_macs)


@dataclass(frozen=True)
class Structure:
    """A network's modules in the order of their definition; the first is the network itself."""

    name: str
    input: tuple[int, int, int]
    modules: tuple[Module, ...]
    macs_pool_first: int
    """With transitions that pool before their convolution, as densekit computes a DenseNet."""
    depth: int
    """Convolutions and linear layers on the longest way from image to logits."""

    @property
    def parameters(self) -> int:
        """Of the whole network."""
        return self.modules[0].parameters

    @property
    def macs(self) -> int:
        """Of the whole network, with transitions as published: convolution, then pool."""
        return self.modules[0].macs

    def layers(self) -> list[Module]:
        """Modules that compute something: their own parameters and MACs add up to the network's."""
        return [module for module in self.modules if module.is_layer]

    def as_dict(self) -> dict[str, Any]:
        """What `densekit show --json` prints."""
        return {
            "name": self.name,
            "input": list(self.input),
            "parameters": self.parameters,
            "macs": self.macs,
            "macs_pool_first": self.macs_pool_first,
            "depth": self.depth,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "output": list(layer.output),
                    "parameters": layer.own_parameters,
                    "macs": layer.own_macs,
                }
                for layer in self.layers()
            ],
        }


def structure_of(config: ModelConfig) -> Structure:
    """Runs the network once on the meta device, and notes what each module makes and costs.

    Args:
        config: of any family; DenseNets are counted as published, with a transition's convolution before its pool.

    Raises:
        InvalidInput: the network cannot be built, or does not take images of the configuration's size.
    """
    built = cost_of(config)  # raises for images that do not fit
    with torch.device("meta"):
        model = build(as_published(config), "concat").eval()
    shapes, macs = _run(model, config)
    modules = []
    for name, module in model.named_modules():
        below = sum(macs[f"{name}.{child}".removeprefix(".")] for child, _ in module.named_children())
        given, made = shapes.get(name, ((), ()))
        modules.append(
            Module(
                name=name,
                kind=_kind(module),
                output=made or _of_last_child(name, module, shapes),
                input=given,
                parameters=sum(p.numel() for p in module.parameters()),
                macs=macs[name],
                own_parameters=sum(p.numel() for p in module.parameters(recurse=False)),
                own_macs=macs[name] - below,
                leaf=next(module.children(), None) is None,
            )
        )
    inputs = (config.in_channels, *config.image_size)
    return Structure(config.name, inputs, tuple(modules), built.macs, built.depth)


def _run(
    model: nn.Module, config: ModelConfig
) -> tuple[dict[str, tuple[tuple[int, ...], tuple[int, ...]]], defaultdict[str, int]]:
    """(input, output) shapes and MACs by module name."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    macs: defaultdict[str, int] = defaultdict(int)
    counter = FlopCounterMode(display=False)

    def watch(name: str, module: nn.Module) -> None:
        before: list[int] = []

        def enter(_: nn.Module, __: Any) -> None:
            before.append(counter.get_total_flops())

        def leave(_: nn.Module, inputs: Any, output: Any) -> None:
            macs[name] += (counter.get_total_flops() - before.pop()) // 2
            shapes[name] = (_shape(inputs[0] if inputs else None), _shape(output))

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    for name, module in model.named_modules():
        watch(name, module)
    try:
        with torch.no_grad(), counter:
            model(torch.empty(1, config.in_channels, *config.image_size, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        height, width = config.image_size
        raise InvalidInput(f"{config.name} cannot be followed at {height}x{width}: {error}") from error
    for name, module in reversed(list(model.named_modules())):  # containers that are never called, as `features`
        below = sum(macs[f"{name}.{child}".removeprefix(".")] for child, _ in module.named_children())
        macs[name] = max(macs[name], below)
    return shapes, macs


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else ()


def _of_last_child(
    name: str, module: nn.Module, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> tuple[int, ...]:
    """What a container that is never called ends in."""
    children = [f"{name}.{child}".removeprefix(".") for child, _ in module.named_children()]
    return next((shapes[child][1] for child in reversed(children) if child in shapes), ())


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    kernel, stride = getattr(module, "kernel_size", None), getattr(module, "stride", 1)
    if kernel is None or next(module.children(), None) is not None:
        return name
    size = "x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    step = stride[0] if isinstance(stride, tuple) else stride
    return f"{name} {size}/{step}" if step != 1 else f"{name} {size}"
