"""What a network costs, counted on the meta device: no memory, no arithmetic."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densekit.config import DenseNetConfig, ModelConfig
from densekit.models.build import build


@dataclass(frozen=True)
class Cost:
    """Of one image at the configuration's size."""

    parameters: int
    macs: int
    """Multiply-accumulates of convolutions and linear layers, as built."""
    depth: int
    """Convolutions and linear layers, shortcut projections not counted."""


def cost_of(config: ModelConfig) -> Cost:
    """Parameters, MACs and depth."""
    with torch.device("meta"):
        model = build(config).eval()
    macs, depth = 0, 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs, depth
        kernel = module.weight
        assert isinstance(kernel, Tensor)
        macs += output.numel() * kernel.numel() // len(kernel)
        depth += not getattr(module, "is_shortcut", False)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
        elif isinstance(module, nn.BatchNorm2d):
            # It costs no MACs and keeps shapes, but on the meta device takes nine tenths of the time.
            module.forward = _same  # type: ignore[method-assign]
    model(torch.empty(1, config.in_channels, *config.image_size, device="meta"))
    return Cost(sum(p.numel() for p in model.parameters()), macs, depth)


def _same(input: Tensor) -> Tensor:
    return input


def saved_bytes_of(config: ModelConfig) -> int:
    """What autograd keeps of one image for the backward pass, in float32."""
    with torch.device("meta"):
        model = build(config).train()
    own = {id(tensor) for tensor in model.parameters()}
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if id(tensor) not in own:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    images = 2  # batch norm refuses a single value per channel, which an 8x8 digit becomes
    x = torch.empty(images, config.in_channels, *config.image_size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) // images


def as_published(config: ModelConfig) -> ModelConfig:
    """The same network with convolution before pooling in transitions, as the published MACs count it."""
    return config.model_copy(update={"pool_first": False}) if isinstance(config, DenseNetConfig) else config
