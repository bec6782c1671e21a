"""Stochastic depth's own dense connectivity (Huang et al. 2017, sec. 5; Huang et al. 2016): how likely layers meet."""

from collections.abc import Sequence

import numpy as np

from densekit.analysis.observations import rank_correlation
from densekit.analysis.reuse import Map

SURVIVAL = 0.5  # of the last layer; the published rule


def survival(layers: int, last: float = SURVIVAL) -> list[float]:
    """p_l = 1 - l/L (1 - p_L), for l from 1 to L (Huang et al. 2016, eq. 4)."""
    return [1 - layer / layers * (1 - last) for layer in range(1, layers + 1)]


def connection_map(block_layers: Sequence[int], block: int, last: float = SURVIVAL) -> Map:
    """P[s, l] = product of (1 - p_i) over the layers i between: that nothing but the shortcut lies between s and l.

    Of a residual network with as many layers as the DenseNet, whose layers of all blocks are counted through.
    (sources, readers), shaped as the reuse map; what enters the block is source 0.
    """
    drop = 1 - np.array(survival(sum(block_layers), last))
    before, layers = sum(block_layers[:block]), block_layers[block]
    found = np.full((layers + 1, layers + 1), np.nan)
    for r in range(layers + 1):  # reader r is layer r + 1, or what follows the block
        for s in range(r + 1):
            found[s, r] = drop[before + s : before + r].prod()
    return found


def agreement(learned: Map, probability: Map) -> float:
    """Rank correlation (Spearman) of two maps of a block over its layers' connections, from -1 to 1."""
    inside = ~np.isnan(learned[:, :-1])
    return rank_correlation(learned[:, :-1][inside], probability[:, :-1][inside])
