"""How many threads a network is worth."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Of a training step. Below it a step takes some tens of milliseconds on one core, and is made of regions so short that
# threads mostly wait for each other: two gain little, and lose a hundredfold where another process wants a core.
_SMALL_MACS = 1_000_000_000


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def suitable(macs: int, batch_size: int) -> Iterator[None]:
    """One thread for a small network (`macs` an image) while this lasts, unless OMP_NUM_THREADS says how many."""
    with exactly(1 if 3 * macs * batch_size < _SMALL_MACS else None):
        yield


@contextmanager
def exactly(threads: int | None) -> Iterator[None]:
    """That many while this lasts, unless OMP_NUM_THREADS says how many; None: as many as torch has."""
    before = torch.get_num_threads()
    if threads is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
