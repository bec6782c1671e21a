"""Feature reuse (Huang et al. 2017, sec. 5 and fig. 5): how much weight each reader gives to each source."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.analysis.connectivity import Block, Reader, seen_by
from densekit.analysis.image_sample import Sample
from densekit.models import DenseNet

Map = NDArray[np.float64]
"""(sources, readers) of a block; not a number where a layer comes before what it would read."""


def by_weight(block: Block) -> Map:
    """The paper's form: A[s, l] = mean |W_l[:, channels of s, :, :]|, of the reader's first convolution."""
    return _map(block, [_by_channel(reader) for reader in block.readers])


def by_gamma(block: Block) -> Map:
    """The same of the weights that act on normalised maps: |W| times the |gamma| of the batch norm before it.

    A reader can give a source little through either, and the network is the same if a factor moves from one to the
    other.
    """
    return _map(block, [_by_channel(reader) * reader.norm.weight.detach().abs() for reader in block.readers])


@torch.no_grad()
def by_activation(model: DenseNet, blocks: Sequence[Block], sample: Sample) -> list[Map]:
    """The same times what arrives: |W| times the mean of the map behind batch norm and ReLU, over images and pixels.

    A large weight on a map that is always zero counts for nothing.
    """
    readers = [reader for block in blocks for reader in block.readers]
    sums: list[Tensor] = [torch.zeros(())] * len(readers)
    with seen_by(readers) as seen:
        for images, _ in sample.chunks():
            model(images)
            for i, x in enumerate(seen):
                assert x is not None
                # Means over an image's pixels, summed over images; a pool in between changes nothing in them.
                sums[i] = sums[i] + x.double().abs().reshape(len(x), x.shape[1], -1).mean(2).sum(0).cpu()
    means = iter(sums)
    return [by_means(block, [next(means) / len(sample) for _ in block.readers]) for block in blocks]


def by_means(block: Block, means: Sequence[Tensor]) -> Map:
    """The same from what arrives at each reader, (C,) means of the maps that it reads, wherever they were taken."""
    return _map(block, [_by_channel(reader).cpu() * mean for reader, mean in zip(block.readers, means, strict=True)])


def empty(block: Block) -> Map:
    """Nothing known yet."""
    return np.full((block.layers + 1, len(block.readers)), np.nan)


def _by_channel(reader: Reader) -> Tensor:
    """(C,): mean absolute weight."""
    return reader.weight().abs().mean((0, 2, 3))


def _map(block: Block, by_channel: Sequence[Tensor]) -> Map:
    """Means over each source's channels; one (C,) tensor for each reader."""
    found = empty(block)
    for s, r in block.edges():
        found[s, r] = by_channel[r][block.sources[s]].double().mean().item()
    return found
