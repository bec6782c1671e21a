"""The device that a network runs on, and its memory layout there."""

from typing import TypeVar

import torch
from torch import nn

from densekit.errors import InvalidInput

Network = TypeVar("Network", bound=nn.Module)


def device_named(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is this process's CUDA device, else the CPU. Raises InvalidInput for what this machine has not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InvalidInput(f"device '{name}' cannot be used; this machine has {', '.join(here)}, or auto") from error
    return device


def to_device(model: Network, device: torch.device) -> Network:
    """On its device, in channels_last: the faster layout for convolutions on CPUs and tensor cores."""
    return model.to(device).to(memory_format=torch.channels_last)
