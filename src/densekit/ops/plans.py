"""Execution plans of a dense block, by name. What a block computes never changes; how does."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from densekit.ops import batch_norm, checkpoint, guards, inference, shared
from densekit.ops.backends import cpu
from densekit.ops.shared import Epilogue

Layers = Sequence[Any]  # dense layers: nn.Modules that look like shared.Layer
_MODULES, _BLOCK, _WITH_EPILOGUE = range(3)  # how much runs as one


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
    return "shared" if not guards.is_traced(x) and cpu.suits(x) else "concat"


def run_block(x: Tensor, layers: Layers, plan: str) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W) by the plan of that name, or by concat where it would not be exact."""
    return _run(x, layers, plan, None)[0]


def run_with_epilogue(x: Tensor, layers: Layers, plan: str, epilogue: Epilogue) -> tuple[Tensor, bool]:
    """A block, and what reads all of it: the batch norm, ReLU and pool of `epilogue`.

    (N, C, H, W) -> (N, C + L*k, H // pool, W // pool) and true; or what `run_block` gives, and false, where the plan
    cannot take the epilogue along.
    """
    return _run(x, layers, plan, epilogue)


def _run(x: Tensor, layers: Layers, plan: str, epilogue: Epilogue | None) -> tuple[Tensor, bool]:
    if guards.is_traced(x):
        return concat(x, layers), False
    if plan in _BY_LAYERS:
        return _BY_LAYERS[plan](x, layers), False
    wanted = resolve(plan, x) == "shared"
    weights = inference.cache_get(x, layers) if wanted else None
    if weights is not None:
        taken = epilogue if _taken(x, layers, epilogue) else None
        return inference.run(x, layers, taken, weights), taken is not None
    extent = _extent(x, layers, epilogue) if wanted else _MODULES
    if batch_norm.any_synchronised(layers):
        (extent,) = batch_norm.all_reduce_min([extent], x.device)
    if extent == _MODULES:
        return concat(x, layers), False
    whole = inference if inference.can_run(x, layers) else shared
    return whole.run(x, layers, epilogue if extent == _WITH_EPILOGUE else None), extent == _WITH_EPILOGUE


def _extent(x: Tensor, layers: Layers, epilogue: Epilogue | None) -> int:
    if not guards.can_run(x, layers):
        return _MODULES
    return _WITH_EPILOGUE if _taken(x, layers, epilogue) else _BLOCK


def _taken(x: Tensor, layers: Layers, epilogue: Epilogue | None) -> bool:
    return epilogue is not None and guards.can_fuse_epilogue(x, layers, epilogue.norm, epilogue.pool)
