"""What becomes of the memory that a step frees."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h, and what they are unless somebody sets them; malloc itself raises the last two up to these.
_MMAP_MAX, _TRIM_THRESHOLD, _MMAP_THRESHOLD = -4, -1, -3
_USUAL = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}
_TUNED = {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"}


@contextmanager
def retain_freed_memory() -> Iterator[None]:
    """While it lasts, freed memory stays with this process for the next step; afterwards the system gets it back.

    A step asks for the same hundreds of MB as the one before. glibc has returned them meanwhile: each page is faulted
    in and zeroed again. That is why torch's tuning guide advises to preload another allocator on a CPU. Nothing happens
    under other C libraries, and where the environment tunes malloc.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or _TUNED & os.environ.keys() or "glibc.malloc" in os.getenv("GLIBC_TUNABLES", ""):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)  # nothing in a mapping of its own, which would be undone when it is freed
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            libc.mallopt(option, value)
        give_back()


def give_back() -> None:
    """Returns to the system what malloc keeps of freed memory, under glibc."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
