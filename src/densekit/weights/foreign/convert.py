"""A tensor in another library's layout -> ours."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from densekit.config import DenseNetConfig
from densekit.weights.foreign.layouts import KERAS, Layout


def oriented(tensor: Tensor, name: str, layout: Layout) -> tuple[Tensor, str]:
    """Keras's kernels as torch has them, and what was done; others as they are, and ""."""
    if layout.parameters is not KERAS or not name.endswith("kernel"):
        return tensor, ""
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1), "height, width, in, out to out, in, height, width"
    return (tensor.T, "transposed") if tensor.dim() == 2 else (tensor, "")


def read_channels(config: DenseNetConfig) -> Mapping[str, Tensor]:
    """For each module that reads a concatenation: at which of its channels the file has each of ours.

    There layer l's input is [o_l-1, ..., o_1, x], where ours is [x, o_1, ..., o_l-1]; x itself is as the stem or the
    transition before made it.
    """
    orders: dict[str, Tensor] = {}
    channels, growth = config.stem_channels, config.growth_rate
    for block, layers in enumerate(config.blocks, start=1):
        for layer in range(1, layers + 2):
            order = _new_first(channels, layer - 1, growth)
            if layer <= layers:
                parts = [f"features.denseblock{block}.denselayer{layer}.{part}" for part in ("norm1", "conv1")]
            elif block < len(config.blocks):
                parts = [f"features.transition{block}.{part}" for part in ("norm", "conv")]
            else:
                parts = ["features.norm5", "classifier"]
            orders |= dict.fromkeys(parts, order)
        channels = int(config.compression * (channels + layers * growth))
    return orders


def _new_first(inputs: int, layers: int, growth: int) -> Tensor:
    starts = [layers * growth, *(growth * i for i in reversed(range(layers)))]
    ends = [layers * growth + inputs, *(growth * (i + 1) for i in reversed(range(layers)))]
    return torch.cat([torch.arange(start, end) for start, end in zip(starts, ends, strict=True)])


def reordered(tensor: Tensor, order: Tensor) -> Tensor:
    """Its input channels, or a vector's entries, in that order."""
    return tensor.index_select(1 if tensor.dim() > 1 else 0, order)


def compression_of(transitions: list[tuple[int, int]]) -> float | None:
    """Compression theta with floor(theta * m) = n for all transitions (m, n) of maps; none where there is none."""
    candidates = [1.0, 0.5, *(after / before for before, after in transitions)]
    # A quotient's nearest float may lie below it, and its product below the whole number.
    candidates += [theta * (1 + 2**-52) for theta in candidates[2:]]
    for theta in candidates:
        if theta <= 1 and all(int(theta * before) == after for before, after in transitions):
            return theta
    return None


def grows(channels: list[int], growth: int) -> bool:
    """Whether each layer reads what the one before read and made."""
    return all(after - before == growth for before, after in pairwise(channels))
