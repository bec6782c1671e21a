"""Which backend computes a call: the first in the table that serves it, or the one that somebody asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from densekit.errors import InvalidInput, UnknownName
from densekit.ops.backends.base import Call, KernelBackend
from densekit.ops.backends.cpu.backend import CpuKernels
from densekit.ops.backends.reference import Reference

AUTO = "auto"
# In order of preference. A new backend is a folder beside this file and a line here.
_BACKENDS: dict[str, KernelBackend] = {
    backend.name: backend
    for backend in (
        CpuKernels(),
        Reference(),
    )
}
_override: KernelBackend | None = None


def names() -> tuple[str, ...]:
    """What `kernels=` takes."""
    return (AUTO, *_BACKENDS)


def register(backend: KernelBackend) -> None:
    """Adds a backend, preferred to those that are there; one of the same name is replaced.

    It is asked for each block whether it `serves` the call. For all of the process.
    """
    others = {name: each for name, each in _BACKENDS.items() if name != backend.name}
    _BACKENDS.clear()
    _BACKENDS.update({backend.name: backend, **others})


def unregister(name: str) -> None:
    """Forgets a backend; raises KeyError if there is none of that name."""
    del _BACKENDS[name]


@contextmanager
def use(backend: str | KernelBackend) -> Iterator[None]:
    """Within it every block runs on this backend, whatever its own `kernels` are. For all of the process.

    A block that the backend does not serve runs module by module.

    Args:
        backend: its name, or a backend, which need not be registered; `auto` is what would be chosen anyway.

    Raises:
        UnknownName: no backend has that name.
        InvalidInput: it cannot run here.
    """
    global _override
    if isinstance(backend, str):
        check(backend)
        chosen = _BACKENDS.get(backend)
    else:
        chosen = backend
    before, _override = _override, chosen
    try:
        yield
    finally:
        _override = before


def check(name: str) -> None:
    """Raises UnknownName for no backend's name, InvalidInput for one that cannot run here."""
    if name not in names():
        raise UnknownName("kernels", name, names())
    if name != AUTO and not _BACKENDS[name].available():
        usable = ", ".join((AUTO, *(each.name for each in _BACKENDS.values() if each.available())))
        raise InvalidInput(f"kernels={name} cannot run here; choose from {usable}")


def resolve(call: Call, kernels: str = AUTO) -> KernelBackend | None:
    """The backend for a call; None where none serves it, and modules are called one by one.

    Args:
        call: device, types and shape.
        kernels: a backend's name, or auto: the first that serves the call.
    """
    if _override is not None:
        return _override if _override.serves(call) else None
    if kernels != AUTO:
        backend = _BACKENDS.get(kernels)
        return backend if backend is not None and backend.serves(call) else None
    return next((backend for backend in _BACKENDS.values() if backend.serves(call)), None)


def call_of(x: Tensor) -> Call:
    """What a backend for these maps is chosen by."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return Call(x.device, x.dtype, torch.get_autocast_dtype(kind) if autocast else None, tuple(x.shape))
