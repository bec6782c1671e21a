"""Execution plans of a dense block, by name. What a block computes never changes; how does."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densekit.ops import checkpoint, inference, native, shared
from densekit.ops.shared import Tail

Layers = Sequence[Any]  # dense layers: nn.Modules that look like shared.Layer


def concat(x: Tensor, layers: Layers) -> Tensor:
    """The plain form and the reference: (N, C, H, W) -> (N, C + L*k, H, W)."""
    features = x
    for layer in layers:
        # Never a concatenation of one tensor: quantisers of exported graphs fail on it.
        features = torch.cat((features, layer(features)), dim=1)
    return features


def _shared(x: Tensor, layers: Layers) -> Tensor:
    return _run_shared(x, layers, None) if shared.can_run(x, layers) else concat(x, layers)


def _run_shared(x: Tensor, layers: Layers, tail: Tail | None) -> Tensor:
    return (inference if inference.can_run(x, layers) else shared).run(x, layers, tail)


PLANS: dict[str, Callable[[Tensor, Layers], Tensor]] = {
    "concat": concat,
    "checkpoint": checkpoint.run,
    "shared": _shared,
}
NAMES = ("auto", *PLANS)


def resolve(plan: str, x: Tensor) -> str:
    """`auto`, where nobody measured: shared where its kernels are compiled, else concat."""
    if plan != "auto":
        return plan
    return "shared" if native.suits(x) else "concat"


def run_block(x: Tensor, layers: Layers, plan: str) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W) by the plan of that name, or by concat where it would not be exact."""
    return PLANS[resolve(plan, x)](x, layers)


def run_with_tail(x: Tensor, layers: Layers, plan: str, tail: Tail, around: Sequence[nn.Module]) -> Tensor | None:
    """A block and what reads all of it, the batch norm, ReLU and pool of `tail`, as one; None where the plan cannot.

    `around` are the modules that are not called then; somebody may be watching them.
    """
    if resolve(plan, x) != "shared" or not shared.can_run(x, layers, tail, around):
        return None
    return _run_shared(x, layers, tail)
