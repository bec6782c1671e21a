"""Whether running a dense block as a whole gives what calling its modules would.

Users replace modules, prune weights, patch `forward` and register hooks. Whatever is not exactly the block of
`densekit.models` runs module by module.
"""

from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from densekit.ops.backends.base import memory_format
from densekit.ops.batch_norm import SyncedBatchNorm, is_synchronised
from densekit.ops.fusable import is_unpatched

TENSORS = (Tensor, nn.Parameter)
_NORM = (nn.BatchNorm2d, SyncedBatchNorm)
_RELU, _CONV, _DROP = (nn.ReLU,), (nn.Conv2d,), (nn.Dropout, nn.Identity)
# What a layer consists of: a role, and the types that may play it, whose subclasses may not.
_ENTRY = {"norm1": _NORM, "relu1": _RELU, "conv1": _CONV}
_WITHOUT_BOTTLENECK = _ENTRY | {"drop2": _DROP}
_BOTTLENECK = _ENTRY | {"drop1": _DROP, "norm2": _NORM, "relu2": _RELU, "conv2": _CONV, "drop2": _DROP}
_PATCHED = frozenset({"forward", "_conv_forward", "_call_impl"})
_GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode")
# Attributes that say what such a module does.
_BEHAVIOUR: dict[type[nn.Module], tuple[str, ...]] = {
    **dict.fromkeys(_NORM, ("training", "eps", "track_running_stats")),
    nn.Conv2d: _GEOMETRY,
    nn.Dropout: ("training", "p"),
}
_CONV1X1 = ((1, 1), (0, 0), (1, 1), 1, "zeros")
_CONV3X3 = ((1, 1), (1, 1), (1, 1), 1, "zeros")
_GLOBAL_HOOKS = (
    torch.nn.modules.module._global_forward_hooks,
    torch.nn.modules.module._global_forward_pre_hooks,
    torch.nn.modules.module._global_backward_hooks,
    torch.nn.modules.module._global_backward_pre_hooks,
)


class Place(NamedTuple):
    """Where and of which type a block's parameters and statistics have to be."""

    device: torch.device
    dtype: torch.dtype


def can_run(x: Tensor, layers: Sequence[nn.Module], dtype: torch.dtype) -> bool:
    """Whether one node may stand for these layers on x, with parameters of type `dtype`."""
    # This runs in every forward pass, which for one small image takes milliseconds: hence modules' own dictionaries.
    if not _supported_input(x) or is_hooked(*layers) or not all(map(is_unpatched, layers)):
        return False
    parts: list[dict[str, Any]] = [layer._modules for layer in layers]
    bottleneck: Any = layers[0].bottleneck
    roles = _BOTTLENECK if bottleneck else _WITHOUT_BOTTLENECK
    for layer, modules in zip(layers, parts, strict=True):
        if layer.bottleneck is not bottleneck or modules.keys() != roles.keys():
            return False
        for role, kinds in roles.items():
            if type(modules[role]) not in kinds or not unhooked(modules[role]):
                return False
    return _fits(x, parts, bottleneck, dtype) and _norms_agree(x, parts) and _dropout_order_is_known(x, parts)


class Snapshot:
    """The facts by which `can_run` accepted layers in evaluation; comparing them takes a third of the time."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._facts = _facts(layers)

    def matches(self, x: Tensor, layers: Sequence[Any]) -> bool:
        """Whether the layers are as they were, but for what their tensors hold, and x could be any image's maps."""
        if not all(map(is_unpatched, layers)):
            return False  # something else may lack what is looked at here
        facts = _facts(layers)
        return (
            len(facts) == len(self._facts)
            and all(map(is_, facts, self._facts))
            and all(unhooked(module) for layer in layers for module in (layer, *layer._modules.values()))
            and _supported_input(x)
        )


def _facts(layers: Sequence[Any]) -> list[object]:
    """Objects to be compared by identity, none of which leads back to the layers."""
    facts: list[object] = []
    for layer in layers:
        modules = layer._modules
        facts.append(layer.bottleneck)
        facts += modules  # their roles
        for module in modules.values():
            own, kind = module.__dict__, type(module)
            facts.append(kind)
            facts += [own[name] for name in _BEHAVIOUR.get(kind, ())]
            for tensors in (own["_parameters"], own["_buffers"]):
                facts += tensors
                facts += tensors.values()
    return facts


def can_fuse_epilogue(x: Tensor, layers: Sequence[Any], norm: Any, pool: int, dtype: torch.dtype) -> bool:
    """After `can_run`: whether that batch norm behind the layers, its ReLU and an average pool may join them."""
    first = layers[0].norm1
    growth = len((layers[0].conv2 if layers[0].bottleneck else layers[0].conv1).weight)
    return (
        type(norm) is type(first)
        and unhooked(norm)
        and norm.training == first.training
        and norm.eps == first.eps
        and _norm_fits(norm, Place(x.device, dtype), x.shape[1] + len(layers) * growth)
        and min(x.shape[2:]) >= pool  # of smaller maps torch says that they are too small
    )


def is_traced(x: Any) -> bool:
    """Whether a compiler, an exporter or a tracer records what is called, and needs single operators."""
    return (
        torch.compiler.is_compiling() or type(x) not in TENSORS or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # untyped in torch
    )


def is_hooked(*modules: nn.Module) -> bool:
    """Whether one of them has a hook, or all modules have."""
    return any(_GLOBAL_HOOKS) or any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in modules
    )


def is_exactly(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether it is exactly of one of these types of torch, unpatched and unhooked."""
    return type(module) in kinds and unhooked(module)


def is_recomputable(layer: nn.Module) -> bool:
    """Whether norm1, ReLU and conv1 of a layer are the expected modules, and calling them again has no side effects."""
    modules: dict[str, Any] = layer._modules
    return (
        is_unpatched(layer)
        and not is_hooked(layer)
        and all(role in modules and is_exactly(modules[role], *kinds) for role, kinds in _ENTRY.items())
    )


def is_dropping(module: nn.Module) -> bool:
    """Whether this dropout drops, which in evaluation it may (Monte Carlo dropout)."""
    return isinstance(module, nn.Dropout) and module.training and module.p > 0


def _supported_input(x: Tensor) -> bool:
    return not (
        is_traced(x)
        or x.dim() != 4
        or not x.numel()
        or x.layout is not torch.strided
        or x.is_neg()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()  # counters of operations
        or forward_ad._current_level >= 0
        or any(_GLOBAL_HOOKS)
    )


def unhooked(module: nn.Module) -> bool:
    """Whether it has no hooks, and no patched methods."""
    own = module.__dict__
    return not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or not own.keys().isdisjoint(_PATCHED)
    )


def _fits(x: Tensor, parts: Sequence[dict[str, Any]], bottleneck: bool, dtype: torch.dtype) -> bool:
    """Whether each layer takes all maps before it, and all have one width and one growth rate."""
    last = parts[0]["conv2" if bottleneck else "conv1"]._parameters.get("weight")
    width = parts[0]["conv1"]._parameters.get("weight")
    if last is None or width is None:
        return False
    growth, width, seen, place = last.shape[0], width.shape[0], x.shape[1], Place(x.device, dtype)
    for modules in parts:
        if not _norm_fits(modules["norm1"], place, seen):
            return False
        if bottleneck:
            fit = (
                _conv_fits(modules["conv1"], place, (width, seen, 1, 1), _CONV1X1)
                and _norm_fits(modules["norm2"], place, width)
                and _conv_fits(modules["conv2"], place, (growth, width, 3, 3), _CONV3X3)
            )
        else:
            fit = _conv_fits(modules["conv1"], place, (growth, seen, 3, 3), _CONV3X3)
        if not fit:
            return False
        seen += growth
    return True


def _conv_fits(conv: nn.Module, place: Place, shape: tuple[int, ...], geometry: tuple[Any, ...]) -> bool:
    own, parameters = conv.__dict__, conv._parameters
    return (
        parameters.get("bias", place) is None
        and _tensor_fits(parameters.get("weight"), place, shape)
        and tuple([own[name] for name in _GEOMETRY]) == geometry
    )


def _norm_fits(norm: nn.Module, place: Place, channels: int) -> bool:
    parameters, buffers, shape = norm._parameters, norm._buffers, (channels,)
    return (
        bool(norm.track_running_stats)
        and buffers.get("num_batches_tracked") is not None
        and _tensor_fits(parameters.get("weight"), place, shape)
        and _tensor_fits(parameters.get("bias"), place, shape)
        and _tensor_fits(buffers.get("running_mean"), place, shape)
        and _tensor_fits(buffers.get("running_var"), place, shape)
    )


def _tensor_fits(tensor: Any, place: Place, shape: tuple[int, ...]) -> bool:
    return (
        type(tensor) in TENSORS
        and tensor.shape == shape
        and tensor.dtype is place.dtype
        and tensor.device == place.device
        and tensor.layout is torch.strided
        and not tensor.is_neg()
    )


def _norms_agree(x: Tensor, parts: Sequence[dict[str, Any]]) -> bool:
    """Whether all norms would compute the statistics that they share in the same way, and can."""
    norms = [modules[role] for modules in parts for role in ("norm1", "norm2") if role in modules]
    # torch refuses statistics of one value, and says so.
    enough = x.numel() > x.shape[1] or not norms[0].training or is_synchronised(norms[0])
    return enough and len({(type(norm), norm.training, norm.eps) for norm in norms}) == 1


def _dropout_order_is_known(x: Tensor, parts: Sequence[dict[str, Any]]) -> bool:
    """Whether masks can be drawn in torch's order, which is that of the maps in memory."""
    found = [m for modules in parts for role, m in modules.items() if role in ("drop1", "drop2") and is_dropping(m)]
    if not found:
        return True
    # A convolution answers in channels_last if its input or its weights are.
    formats = {
        memory_format(conv._parameters["weight"]) for m in parts for r, conv in m.items() if r.startswith("conv")
    }
    return not any(drop.inplace for drop in found) and (
        memory_format(x) == torch.channels_last or formats == {torch.contiguous_format}
    )
