"""How a dense block is executed: plans by name, and the kernels behind them."""

from densekit.ops import fork  # noqa: F401 - its import registers what forks need
from densekit.ops.backends.cpu import build_name as kernels
from densekit.ops.batch_norm import SyncedBatchNorm, apart, convert
from densekit.ops.guards import as_written, drops, is_a, observed, traced
from densekit.ops.plans import NAMES as PLANS
from densekit.ops.plans import run_block, run_with_tail
from densekit.ops.shared import Tail

__all__ = [
    "PLANS",
    "SyncedBatchNorm",
    "Tail",
    "apart",
    "as_written",
    "convert",
    "drops",
    "is_a",
    "kernels",
    "observed",
    "run_block",
    "run_with_tail",
    "traced",
]
