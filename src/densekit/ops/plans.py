"""Execution plans of a dense block, by name."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Layer = Callable[[Tensor], Tensor]
Plan = Callable[[Tensor, Iterable[Layer]], Tensor]


def concat(x: Tensor, layers: Iterable[Layer]) -> Tensor:
    """The plain form and the reference: (N, C, H, W) -> (N, C + L*k, H, W)."""
    features = x
    for layer in layers:
        # Never a concatenation of one tensor: quantisers of exported graphs fail on it.
        features = torch.cat((features, layer(features)), dim=1)
    return features


PLANS: dict[str, Plan] = {"concat": concat, "auto": concat}


def run_block(x: Tensor, layers: Iterable[Layer], plan: str) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W) by the plan of that name."""
    return PLANS[plan](x, layers)
