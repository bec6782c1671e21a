"""How a dense block is executed: plans by name, and the kernels behind them."""

from densekit.ops import fork  # noqa: F401 - its import registers what forks need
from densekit.ops.backends.cpu import build_name as kernels
from densekit.ops.batch_norm import SyncedBatchNorm, convert_sync_batch_norm, unsynchronised
from densekit.ops.guards import is_dropping, is_exactly, is_hooked, is_traced, is_unpatched
from densekit.ops.plans import NAMES as PLANS
from densekit.ops.plans import run_block, run_with_epilogue
from densekit.ops.shared import Epilogue

__all__ = [
    "PLANS",
    "Epilogue",
    "SyncedBatchNorm",
    "convert_sync_batch_norm",
    "is_dropping",
    "is_exactly",
    "is_hooked",
    "is_traced",
    "is_unpatched",
    "kernels",
    "run_block",
    "run_with_epilogue",
    "unsynchronised",
]
