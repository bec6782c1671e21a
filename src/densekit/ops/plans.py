"""Execution plans of a dense block, by name. What a block computes never changes; how does."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from densekit.ops import batch_norm, checkpoint, guards, inference, shared
from densekit.ops.backends import cpu
from densekit.ops.shared import Tail

Layers = Sequence[Any]  # dense layers: nn.Modules that look like shared.Layer
_MODULES, _BLOCK, _TAIL = range(3)  # how much runs as one


def concat(x: Tensor, layers: Layers) -> Tensor:
    """The plain form and the reference: (N, C, H, W) -> (N, C + L*k, H, W)."""
    features = x
    for layer in layers:
        # Never a concatenation of one tensor: quantisers of exported graphs fail on it.
        features = torch.cat((features, layer(features)), dim=1)
    return features


_BY_LAYERS: dict[str, Callable[[Tensor, Layers], Tensor]] = {"concat": concat, "checkpoint": checkpoint.run}
NAMES = ("auto", *_BY_LAYERS, "shared")


def resolve(plan: str, x: Tensor) -> str:
    """`auto`, where nobody measured: shared where its kernels are compiled, else concat."""
    if plan != "auto":
        return plan
    return "shared" if not guards.traced(x) and cpu.suits(x) else "concat"


def run_block(x: Tensor, layers: Layers, plan: str) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W) by the plan of that name, or by concat where it would not be exact."""
    return _run(x, layers, plan, None)[0]


def run_with_tail(x: Tensor, layers: Layers, plan: str, tail: Tail) -> tuple[Tensor, bool]:
    """A block, and what reads all of it: the batch norm, ReLU and pool of `tail`.

    (N, C, H, W) -> (N, C + L*k, H // pool, W // pool) and true; or what `run_block` gives, and false, where the plan
    cannot take the tail along.
    """
    return _run(x, layers, plan, tail)


def _run(x: Tensor, layers: Layers, plan: str, tail: Tail | None) -> tuple[Tensor, bool]:
    if guards.traced(x):
        return concat(x, layers), False
    if plan in _BY_LAYERS:
        return _BY_LAYERS[plan](x, layers), False
    wanted = resolve(plan, x) == "shared"
    weights = inference.recall(x, layers) if wanted else None
    if weights is not None:
        taken = tail if _taken(x, layers, tail) else None
        return inference.run(x, layers, taken, weights), taken is not None
    extent = _extent(x, layers, tail) if wanted else _MODULES
    if batch_norm.any_pools(layers):
        (extent,) = batch_norm.least([extent], x.device)
    if extent == _MODULES:
        return concat(x, layers), False
    whole = inference if inference.can_run(x, layers) else shared
    return whole.run(x, layers, tail if extent == _TAIL else None), extent == _TAIL


def _extent(x: Tensor, layers: Layers, tail: Tail | None) -> int:
    if not guards.can_run(x, layers):
        return _MODULES
    return _TAIL if _taken(x, layers, tail) else _BLOCK


def _taken(x: Tensor, layers: Layers, tail: Tail | None) -> bool:
    return tail is not None and guards.can_take(x, layers, tail.norm, tail.pool)
