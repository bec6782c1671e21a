"""torch's default data type, on which no result may depend."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_depth = 0  # of the calls that last, in all threads
_before = torch.float32  # the default when the first of them began


@contextmanager
def float32_default() -> Iterator[None]:
    """New tensors and networks are float32 while it lasts, whatever `torch.set_default_dtype` was given before.

    The default is of the whole process: other threads see the change. The last of overlapping calls restores what was
    there before the first. Also a decorator: `@float32_default()`.
    """
    global _depth, _before
    with _lock:
        if _depth == 0:
            _before = torch.get_default_dtype()
        _depth += 1
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                torch.set_default_dtype(_before)
