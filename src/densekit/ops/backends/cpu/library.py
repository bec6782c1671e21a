"""Loads the compiled kernels that suit this processor."""

import ctypes
import functools
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from densekit.errors import UnknownName
from densekit.ops.backends.cpu import bindings
from densekit.ops.backends.cpu.build import fingerprint

# torch's word for what the processor and its operating system can do -> builds that run there, best first.
_BUILDS = {"AVX512": ("avx512", "avx2", "baseline"), "AVX2": ("avx2", "baseline")}
FOLDER = Path(__file__).parent


def available_builds() -> list[str]:
    """Builds that are installed and that this processor runs, best first; DENSEKIT_KERNELS names one, or none.

    Raises UnknownName for another name there.
    """
    wanted = os.environ.get("DENSEKIT_KERNELS")
    if wanted is not None and wanted not in ("none", *_BUILDS["AVX512"]):
        raise UnknownName("value of DENSEKIT_KERNELS", wanted, ("none", *_BUILDS["AVX512"]))
    able = _BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("baseline",))
    return [name for name in able if wanted in (None, name) and _path(name).exists()]


class Library(NamedTuple):
    """A build of the kernels that is loaded."""

    build: str
    """avx512, avx2 or baseline."""
    handle: ctypes.CDLL


@functools.cache
def load() -> Library | None:
    """The best build that this processor runs, or None where none was compiled at installation.

    torch is imported first, so that the loader finds its OpenMP runtime for us by the same soname: two runtimes on the
    same cores would fight.
    """
    for name in available_builds():
        try:
            loaded = ctypes.CDLL(str(_path(name)))
        except OSError as error:  # cut short, or its OpenMP runtime is not on this machine
            warnings.warn(f"{_path(name)} cannot be loaded: {error}", stacklevel=2)
            continue
        loaded.densekit_sources.restype = ctypes.c_char_p
        if loaded.densekit_sources().decode() == fingerprint():
            bindings.declare(loaded, bindings.read())
            return Library(name, loaded)
        # An editable installation whose sources moved on: calling it could crash.
        warnings.warn(
            f"{_path(name)} is older than its sources; python -m densekit.ops.backends.cpu.build", stacklevel=2
        )
    return None


def _path(build: str) -> Path:
    return FOLDER / f"densekit_{build}.so"


def available() -> bool:
    """Whether kernels were compiled at installation and this processor runs them."""
    return load() is not None


def build_name() -> str:
    """Which kernels run here: avx512, avx2 or baseline, or none."""
    found = load()
    return found.build if found else "none"
