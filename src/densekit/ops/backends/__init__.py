"""Implementations of the primitives that plans are made of.

`base` has the protocol, `reference` torch's operators, `cpu` compiled kernels; `resolve` chooses. docs/extending.md
says how to add one.
"""

from densekit.ops.backends.base import KernelBackend
from densekit.ops.backends.resolve import AUTO, call_of, check, names, register, resolve, unregister, use

__all__ = ["AUTO", "KernelBackend", "call_of", "check", "names", "register", "resolve", "unregister", "use"]
