"""torch's default data type, on which no result may depend."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_default() -> Iterator[None]:
    """New tensors and networks are float32 while it lasts, whatever `torch.set_default_dtype` was given before.

    The default is of the whole process: other threads see the change. Also a decorator: `@float32_default()`.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
