"""Lower precision by autocast, the scaled loss that float16's narrow range needs, and sums in one order."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOWER = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Of a recipe's precision; float32 changes nothing."""
    return torch.autocast(device.type, _LOWER.get(precision), enabled=precision in _LOWER)


def scaler_for(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """It passes gradients through but for float16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """While it lasts cuDNN adds up in one order, by algorithms that no measurement of the moment chose."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
