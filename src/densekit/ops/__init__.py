"""How a dense block is executed: plans by name, and the kernel backends behind them."""

from densekit.ops import fork  # noqa: F401 - its import registers what forks need
from densekit.ops.backends.cpu.library import build_name as kernels
from densekit.ops.batch_norm import SyncedBatchNorm, convert_sync_batch_norm, unsynchronised
from densekit.ops.executor import run_features
from densekit.ops.fusable import Fusable, FusableBlock, FusableTransition
from densekit.ops.guards import is_dropping
from densekit.ops.plans import NAMES as PLANS
from densekit.ops.plans import run_block

__all__ = [
    "PLANS",
    "Fusable",
    "FusableBlock",
    "FusableTransition",
    "SyncedBatchNorm",
    "convert_sync_batch_norm",
    "is_dropping",
    "kernels",
    "run_block",
    "run_features",
    "unsynchronised",
]
