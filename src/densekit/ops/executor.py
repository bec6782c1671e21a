"""Walks a network's modules in order, and runs as a block's epilogue what the block's plan can fuse.

A transition's batch norm, ReLU and pool, or the network's last batch norm and ReLU, are one more reader of the block's
normalised maps: fused, the raw maps need not be kept at all.
"""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from densekit.ops import guards, plans
from densekit.ops.batch_norm import SyncedBatchNorm
from densekit.ops.fusable import Fusable, FusableBlock, FusableTransition, is_unpatched
from densekit.ops.shared import Epilogue


def run_features(features: nn.Module, relu: nn.Module, x: Tensor) -> Tensor:
    """relu(features(x)), as one call of each module would give it.

    Args:
        features: an nn.Sequential in which dense blocks are `FusableBlock` and transitions `FusableTransition`; others,
            and what users put in their place, are called.
        relu: behind it.
        x: (N, C, H, W).

    Returns:
        What the last module makes of it.
    """
    if guards.is_traced(x) or not guards.is_exactly(features, nn.Sequential):
        return relu(features(x))
    modules = [*cast(nn.Sequential, features), relu]
    while modules:
        module = modules.pop(0)
        epilogue = _epilogue(modules) if _is_ours(module, FusableBlock) else None
        if epilogue is None:
            x = module(x)
            continue
        x, fused = plans.run_with_epilogue(cast(FusableBlock, module), x, epilogue)
        if fused:
            x = _skip(modules, x)
    return x


def _skip(modules: list[nn.Module], x: Tensor) -> Tensor:
    """Runs what is left of the transition whose beginning was fused; the last norm and ReLU leave nothing."""
    follower = modules.pop(0)
    if isinstance(follower, FusableTransition):
        return follower.reduce(x)
    modules.pop(0)  # the ReLU
    return x


def _is_ours(module: nn.Module, kind: type[Fusable]) -> bool:
    """Whether it is of that kind, and calling it would do nothing else than its class says."""
    return isinstance(module, kind) and is_unpatched(module) and not guards.is_hooked(module)


def _epilogue(followers: Sequence[nn.Module]) -> Epilogue | None:
    """What a block may fuse of the modules behind it; None where they are not what the paper has there."""
    if not followers:
        return None
    follower: Any = followers[0]  # modules' attributes have no types
    if guards.is_exactly(follower, nn.BatchNorm2d, SyncedBatchNorm):
        return Epilogue(follower, 1) if len(followers) == 2 and guards.is_exactly(followers[1], nn.ReLU) else None
    if not _is_ours(follower, FusableTransition):
        return None
    if not guards.is_exactly(follower.relu, nn.ReLU) or not _halves(follower.pool):
        return None
    return Epilogue(follower.norm, 2 if follower.pools_first() else 1)


def _halves(pool: Any) -> bool:
    """Whether it is a plain average over 2 x 2."""
    if not guards.is_exactly(pool, nn.AvgPool2d):
        return False
    settings = (pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, pool.divisor_override)
    return settings == (2, 2, 0, False, None)
