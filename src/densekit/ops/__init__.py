"""How a dense block is executed: plans by name, and the kernels behind them."""

from densekit.ops.batch_norm import apart, convert
from densekit.ops.native import build as kernels
from densekit.ops.plans import NAMES as PLANS
from densekit.ops.plans import run_block, run_with_tail
from densekit.ops.shared import Tail, observed

__all__ = ["PLANS", "Tail", "apart", "convert", "kernels", "observed", "run_block", "run_with_tail"]
