"""What a network costs: from its configuration, or counted on the meta device, without memory or arithmetic."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densekit.config import DenseNetConfig, ModelConfig, ResNetConfig
from densekit.errors import InvalidInput
from densekit.models.counts import Cost, as_published, counted
from densekit.models.factory import build

__all__ = ["Cost", "as_published", "cost_of", "measured", "needs_two_images", "parameters_of", "saved_bytes_of"]

# The backward nodes of layers with weights. A product of two activations, as in attention, is no layer.
_LAYERS = frozenset({"ConvolutionBackward0", "AddmmBackward0", "MmBackward0"})


def cost_of(config: ModelConfig) -> Cost:
    """Parameters, MACs and depth. Raises InvalidInput for a network that does not take images of this size."""
    return counted(config) if isinstance(config, DenseNetConfig | ResNetConfig) else measured(config)


def measured(config: ModelConfig) -> Cost:
    """As `cost_of`, by a forward pass of the network on the meta device: for any network, but can take seconds."""
    with torch.device("meta"):
        # By plain concatenation: what another plan fuses can neither be counted nor followed.
        model = build(config, "concat").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.ReLU):
            # They cost no MACs and keep shapes, but on the meta device take nine tenths of the time.
            module.forward = _same  # type: ignore[method-assign]  # of a model that is thrown away
    x = torch.empty(1, config.in_channels, *config.image_size, device="meta")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x)
    except (RuntimeError, AssertionError, ValueError) as error:  # networks of other libraries say it in their own way
        height, width = config.image_size
        reason = f" ({error})" if str(error) else ""
        raise InvalidInput(
            f"{config.name} does not take images of {height}x{width}{reason}; pass --image-size with a size it takes"
        ) from error
    macs = counter.get_total_flops() // 2  # torch counts a multiplication and an addition
    return Cost(sum(p.numel() for p in model.parameters()), macs, _depth(model(x)))


def parameters_of(config: ModelConfig) -> int:
    """`cost_of(config).parameters` alone, without the forward pass that a network of another library would need."""
    if isinstance(config, DenseNetConfig | ResNetConfig):
        return counted(config).parameters
    with torch.device("meta"):
        return sum(p.numel() for p in build(config, "concat").parameters())


def _depth(logits: Tensor) -> int:
    """Layers on the longest way back to the image, along autograd's graph: shortcuts and short branches add none."""
    depths: dict[Any, int] = {None: 0}  # where a graph ends, autograd says None
    stack = [logits.grad_fn]
    while stack:  # not by recursion: preact_resnet_1001 is deeper than Python's stack
        node = stack[-1]
        waiting = [before for before, _ in node.next_functions if before not in depths] if node is not None else []
        if waiting:
            stack += waiting
            continue
        stack.pop()
        if node is not None:
            depths[node] = (node.name() in _LAYERS) + max((depths[n] for n, _ in node.next_functions), default=0)
    return depths[logits.grad_fn]


def _same(input: Tensor) -> Tensor:
    return input


def saved_bytes_of(config: ModelConfig, plan: str = "concat") -> int:
    """What autograd keeps of one image for the backward pass, in float32, under a plan."""
    with torch.device("meta"):
        model = build(config, plan).train()
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


@cache
def needs_two_images(config: ModelConfig, size: tuple[int, int]) -> bool:
    """Whether training on one image of (height, width) leaves a batch norm one value a channel, which torch refuses."""
    with torch.device("meta"):
        model = build(config, "concat").train()
    try:
        with torch.no_grad():
            model(torch.empty(1, config.in_channels, *size, device="meta"))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return True
    return False
