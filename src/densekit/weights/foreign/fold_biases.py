"""Biases of convolutions as part of the running means of the batch norms that read them.

A batch norm subtracts its running mean, so a constant added to a channel before it is a smaller running mean: the same
function in evaluation. In training a batch norm subtracts the batch's mean, and the bias has no effect.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from densekit.config import DenseNetConfig


def shifts(config: DenseNetConfig, biases: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(batch norm, the constant in each channel it reads), for every batch norm of the network.

    Args:
        config: The network.
        biases: Convolutions by name, and their biases; one that is not there has none. Pooling keeps constants.
    """

    def bias(conv: str, channels: int) -> Tensor:
        return biases[conv].double() if conv in biases else torch.zeros(channels, dtype=torch.float64)

    growth = config.growth_rate
    seen = bias("features.conv0", config.stem_channels)
    if config.stem == "imagenet" or config.stem_norm:
        yield "features.norm0", seen
        seen = torch.zeros_like(seen)
    for block, layers in enumerate(config.blocks, start=1):
        for layer in range(1, layers + 1):
            prefix = f"features.denseblock{block}.denselayer{layer}"
            yield f"{prefix}.norm1", seen
            if config.bottleneck:
                yield f"{prefix}.norm2", bias(f"{prefix}.conv1", config.bottleneck_width * growth)
            seen = torch.cat((seen, bias(f"{prefix}.conv{2 if config.bottleneck else 1}", growth)))
        if block < len(config.blocks):
            transition = f"features.transition{block}"
            yield f"{transition}.norm", seen
            seen = bias(f"{transition}.conv", int(config.compression * len(seen)))
    yield "features.norm5", seen
