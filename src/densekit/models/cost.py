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
    """Convolutions and linear layers on the longest path (shortcut projections not counted)."""
    saved_bytes: int
    """What autograd keeps for the backward pass, in float32."""


def cost_of(config: ModelConfig) -> Cost:
    """Counts parameters, MACs, depth and saved bytes of one training step's forward pass, per image."""
    with torch.device("meta"):
        model = build(config).train()
    macs, depth = 0, 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs, depth
        macs += output.numel() * module.weight[0].numel()
        depth += not getattr(module, "is_shortcut", False)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)

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
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        macs=macs // images,
        depth=depth,
        saved_bytes=sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) // images,
    )


def as_published(config: ModelConfig) -> ModelConfig:
    """The same network with convolution before pooling in transitions, as the published MACs count it."""
    return config.model_copy(update={"pool_first": False}) if isinstance(config, DenseNetConfig) else config
