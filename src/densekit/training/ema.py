"""The moving average of a network's weights and buffers, with torch's own AveragedModel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def average_of(model: nn.Module, decay: float) -> AveragedModel | None:
    """None when `decay` is 0. Buffers are averaged with the weights, or batch norm would not fit them."""
    return AveragedModel(model, multi_avg_fn=_lerp(decay), use_buffers=True) if decay else None


def _lerp(decay: float):  # type: ignore[no-untyped-def]  # torch's own type for it is private
    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor | int) -> None:
        n = int(steps)
        # A short run would otherwise keep its random start.
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if averaged[0].is_floating_point():  # torch calls with tensors of one type
            torch._foreach_lerp_(list(averaged), list(current), weight)
        else:
            for counter, value in zip(averaged, current, strict=True):
                counter.copy_(value)

    return update
