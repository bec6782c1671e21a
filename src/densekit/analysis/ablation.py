"""Connections cut one at a time, and then together: which of them a network would miss.

No weight is changed: a cut connection carries zeros (`anatomy.without`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from densekit.analysis.connectivity import Block, go_on, without, without_edges
from densekit.analysis.error_metrics import error_of, losses
from densekit.analysis.image_sample import Sample
from densekit.analysis.reuse import Map, empty
from densekit.models import DenseNet

Edge = tuple[int, int, int]
"""(block, source, reader), as positions."""
_STEPS = 20  # points of a curve of error against edges removed
_ORDERS = 3  # of random removal


@dataclass(frozen=True)
class Ablation:
    """What each connection is worth: by how much the loss rises without it."""

    edges: list[Edge]
    rises: NDArray[np.float64]
    """(edges, N): change of each image's loss, in nats: `answers.losses`."""
    losses: NDArray[np.float64]
    """(N,), of the whole network."""

    def maps(self, blocks: Sequence[Block]) -> tuple[list[Map], list[Map]]:
        """Of each block, the mean rise and its standard error over images."""
        count = self.rises.shape[1]
        spread = self.rises.std(1, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(self.edges), np.nan)
        rises, errors = [empty(block) for block in blocks], [empty(block) for block in blocks]
        for (b, s, r), rise, error in zip(self.edges, self.rises.mean(1), spread, strict=True):
            rises[b][s, r], errors[b][s, r] = rise, error
        return rises, errors

    def ranking(self, images: slice = slice(None)) -> list[Edge]:
        """All connections, the one least missed first, as these images see it."""
        order = np.argsort(self.rises[:, images].mean(1), kind="stable")
        return [self.edges[e] for e in order]


@torch.no_grad()
def ablate(
    model: DenseNet, blocks: Sequence[Block], sample: Sample, advance: Callable[[int], None] = lambda _: None
) -> Ablation:
    """Cuts every (source, reader) connection by itself; `advance` is told the number of images for each."""
    edges = [(b, s, r) for b, block in enumerate(blocks) for s, r in block.edges()]
    rises, whole = np.empty((len(edges), len(sample))), np.empty(len(sample))
    done = 0
    for images, targets in sample.chunks():
        part = slice(done, done + len(targets))
        done += len(targets)
        taken = model.forward_intermediates(images)[1]
        whole[part] = _losses(model(images), targets)
        for e, (b, s, r) in enumerate(edges):
            block, reader = blocks[b], blocks[b].readers[r]
            maps = taken[b][:, : block.sources[reader.reads - 1].stop]
            with without(reader, [block.sources[s]]):
                rises[e, part] = _losses(go_on(model, block, r, maps), targets) - whole[part]
            advance(len(targets))
    return Ablation(edges, rises, whole)


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float64]:
    return losses(logits.double(), targets).cpu().numpy()


@dataclass(frozen=True)
class Removal:
    """Error of the network with more and more of its connections cut, in one order."""

    order: str
    removed: list[int]
    error: list[float]
    """Share of wrong answers, or one minus the mean AUROC of several labels, for each of `removed`."""


def remove(
    model: nn.Module,
    blocks: Sequence[Block],
    orders: dict[str, list[Edge]],
    sample: Sample,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Removal]:
    """One curve an order, on images that should be others than those that gave the order."""
    curves = []
    for name, edges in orders.items():
        counts = steps(len(edges))
        errors = []
        for count in counts:
            with without_edges([(blocks[b], s, r) for b, s, r in edges[:count]]):
                errors.append(error_of(model, sample))
            advance(len(sample))
        curves.append(Removal(name, counts, errors))
    return curves


def steps(edges: int) -> list[int]:
    """How many connections are cut at each point of a curve: none to all, evenly."""
    return sorted({round(share * edges) for share in np.linspace(0, 1, _STEPS + 1)})


def random_orders(edges: Sequence[Edge]) -> dict[str, list[Edge]]:
    """What any order has to beat."""
    return {
        f"random {i + 1}": [edges[j] for j in np.random.default_rng(i).permutation(len(edges))] for i in range(_ORDERS)
    }
