"""OpenMP and `fork`: a child has none of its parent's threads, and libgomp would wait for them for ever.

So the threads are ended before each fork; parent and child start as many new ones at their next parallel region, hence
with the same bits. This repairs torch's own operators, too. Runtimes other than libgomp handle forks themselves.
"""

import ctypes
import os
import warnings

import torch

_HARD = 2  # omp_pause_hard of OpenMP 5.0
_released = False  # between a fork's two hooks
_orphaned = False  # this process was forked without `_before`


def _runtime() -> ctypes.CDLL | None:
    """The libgomp that torch calls, or None where torch uses another runtime or none."""
    # A symbol is looked up in what torch's extension depends on.
    library = ctypes.CDLL(torch._C.__file__)
    is_libgomp = hasattr(library, "GOMP_parallel") and not hasattr(library, "__kmpc_fork_call")
    return library if is_libgomp else None


def _before() -> None:
    global _released
    pause = getattr(_LIBGOMP, "omp_pause_resource_all", None)  # missing before GCC 9
    _released = pause is not None and not _orphaned and pause(_HARD) == 0


def _in_parent() -> None:
    global _released
    _released = False


def _in_child() -> None:
    global _released, _orphaned
    released, _released = _released, False
    if released or torch.get_num_threads() == 1:
        return
    _orphaned = True
    torch.set_num_threads(1)
    warnings.warn(
        "this process was forked past Python's hooks, so that torch's threads are lost: it computes on one thread; "
        "fork before the first prediction, or use spawn, for more",
        stacklevel=2,
    )


_LIBGOMP = _runtime()
if _LIBGOMP is not None:
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
