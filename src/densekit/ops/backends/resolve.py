"""Which backend computes a call: the first in the table that serves it, or the one that somebody asked for."""

from collections.abc import Iterable, Iterator
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
    """Within it every block asks this backend alone, whatever its own `kernels` are. For all of the process.

    A block that the backend does not serve runs module by module; so does one of plan `auto`, unless it is `fused`.

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
        if not backend.available():
            raise InvalidInput(f"kernels={backend.name} cannot run here")
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


def resolve(call: Call, kernels: str = AUTO, *, fused: bool = False) -> KernelBackend | None:
    """The backend for a call; None where none serves it, and modules are called one by one.

    Args:
        call: device, types and shape.
        kernels: a backend's name, or auto: the first that is available and serves the call.
        fused: only those that beat calling the modules one by one.
    """
    candidates: Iterable[KernelBackend] = _BACKENDS.values()
    if _override is not None:
        candidates = (_override,)
    elif kernels != AUTO:
        candidates = (_BACKENDS[kernels],) if kernels in _BACKENDS else ()
    return next(
        (each for each in candidates if (each.fused or not fused) and each.serves(call) and each.available()), None
    )


def call_of(x: Tensor) -> Call:
    """What a backend for these maps is chosen by."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return Call(x.device, x.dtype, torch.get_autocast_dtype(kind) if autocast else None, tuple(x.shape))
