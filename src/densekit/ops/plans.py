"""Execution plans of a dense block, by name. What a block computes never changes; how does."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from densekit.ops import backends, batch_norm, checkpoint, concat, guards, inference, shared
from densekit.ops.backends.base import Call, KernelBackend
from densekit.ops.fusable import FusableBlock
from densekit.ops.shared import Epilogue

Layers = Sequence[Any]  # dense layers: nn.Modules that look like shared.Layer

_BY_LAYERS: dict[str, Callable[[Tensor, Layers], Tensor]] = {"concat": concat.run, "checkpoint": checkpoint.run}
NAMES = ("auto", *_BY_LAYERS, "shared")
_MODULES, _BLOCK, _WITH_EPILOGUE = range(3)  # how much runs as one


def run_block(block: FusableBlock, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W) by the block's plan, or by concat where that would not be exact."""
    return run_with_epilogue(block, x, None)[0]


def run_with_epilogue(block: FusableBlock, x: Tensor, epilogue: Epilogue | None) -> tuple[Tensor, bool]:
    """A block, and what reads all of it: the batch norm, ReLU and pool of the epilogue.

    Args:
        block: of L layers and growth rate k.
        x: (N, C, H, W).
        epilogue: what follows the block, if that is one.

    Returns:
        (N, C + L*k, H // pool, W // pool) and true; or what `run_block` gives, and false, where there is no epilogue or
        the plan cannot fuse it.
    """
    layers = block.layers()
    if guards.is_traced(x):
        return concat.run(x, layers), False
    if block.plan in _BY_LAYERS:
        return _BY_LAYERS[block.plan](x, layers), False
    call = backends.call_of(x)
    kernels = kernels_for(block.plan, call, block.kernels)
    if kernels is None:
        _agree(_MODULES, x, layers)
        return concat.run(x, layers), False
    return _run_whole(x, layers, epilogue, kernels, call)


def kernels_for(plan: str, call: Call, kernels: str = backends.AUTO) -> KernelBackend | None:
    """What would run a block as one; None where the plan calls its modules.

    Plan `auto`, where nobody measured, is `shared` on a backend that is faster than the modules, else `concat`.
    """
    if plan in _BY_LAYERS:
        return None
    return backends.resolve(call, kernels, fused=plan != "shared")


def _run_whole(
    x: Tensor, layers: Layers, epilogue: Epilogue | None, kernels: KernelBackend, call: Call
) -> tuple[Tensor, bool]:
    """As much of block and epilogue as one as is exact."""
    precision = kernels.precision(call)
    dtype = precision.accumulate

    def fusable() -> bool:
        return epilogue is not None and guards.can_fuse_epilogue(x, layers, epilogue.norm, epilogue.pool, dtype)

    weights = inference.cache_get(x, layers, kernels)
    if weights is not None:
        fused = epilogue if fusable() else None
        return inference.run(x, layers, fused, kernels, weights), fused is not None
    extent = _MODULES
    if guards.can_run(x, layers, dtype):
        extent = _WITH_EPILOGUE if fusable() else _BLOCK
    extent = _agree(extent, x, layers)
    if extent == _MODULES:
        return concat.run(x, layers), False
    fused = epilogue if extent == _WITH_EPILOGUE else None
    if inference.can_run(layers, kernels):
        return inference.run(x, layers, fused, kernels), fused is not None
    return shared.run(x, layers, fused, kernels, precision), fused is not None


def _agree(extent: int, x: Tensor, layers: Layers) -> int:
    """The least that any process can run as one, so that all take part in the same collectives."""
    if batch_norm.any_synchronised(layers):
        (extent,) = batch_norm.all_reduce_min([extent], x.device)
    return extent
