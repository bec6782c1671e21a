"""How a dense block is executed. The block says what; a plan says how; results are the same function."""

from densekit.ops.plans import PLANS, Plan, run_block

__all__ = ["PLANS", "Plan", "run_block"]
