"""Loads the compiled primitives that suit this processor."""

import ctypes
import functools
import os
import warnings
from pathlib import Path

import torch

from densekit.errors import UnknownName
from densekit.ops.native.compile import fingerprint

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


@functools.cache
def library() -> tuple[str, ctypes.CDLL] | None:
    """(name of the build, the library), or None where none was compiled at installation.

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
            return name, _declare(loaded)
        # An editable installation whose sources moved on: calling it could crash.
        warnings.warn(f"{_path(name)} is older than its sources; python -m densekit.ops.native.compile", stacklevel=2)
    return None


def _path(build: str) -> Path:
    return FOLDER / f"densekit_{build}.so"


_P, _I, _T = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
_SIGNATURES = {
    "statistics": [_P, _I, _P, _P, _I, _I, _T],
    "normalise": [_P, _I, _P, _P, _P, _I, _I, _I, _T],
    "pointwise": [_P, _I, _P, _P, _P, _P, _I, _P, _P, _I, _I, _I, _T],
    "pointwise_backward": [
        _P,
        _I,
        _P,
        _P,
        _P,
        _P,
        _P,
        _I,
        _P,
        _I,
        _P,
        _P,
        _P,
        _P,
        _I,
        *[_P] * 3,
        _I,
        _P,
        _P,
        *[_I] * 3,
        _T,
    ],
    "conv3x3": [_P, _I, _P, _P, _P, _P, _I, _I, _I, _I, _I, _I, _T],
    "conv3x3_backward": [_P, _I, _P, _P, _P, _P, _P, _I, _P, _I, _P, _P, _P, _I, _I, _I, _I, _I, _T],
    "dots": [_P, _I, _P, _I, _P, _P, _I, _I, _T],
    "rectify_pool": [_P, _I, _P, _P, _P, _I, _I, _I, _I, _I, _I, _T],
    "rectify_pool_backward": [_P, _I, _P, _P, _P, _P, _I, _P, _I, _P, _P, _I, _I, _I, _I, _I, _T],
    "dense_block": [_P, _I, _P, _P, _P, _I, _P, _I, _I, _I, _I, _I, _I, _I, _T],
    "normalise_backward": [_P, _I, _P, _I, _P, _I, _P, _P, _P, _P, _I, _I, _I, _T],
}


def _declare(loaded: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, f"densekit_{name}")
        function.argtypes, function.restype = arguments, ctypes.c_int
    loaded.densekit_dense_layer_size.argtypes, loaded.densekit_dense_layer_size.restype = [_I] * 3, _I
    loaded.densekit_pack_dense_layer.argtypes, loaded.densekit_pack_dense_layer.restype = [_P] * 4 + [_I] * 3, None
    loaded.densekit_advise.argtypes, loaded.densekit_advise.restype = [_P, _I], None
    loaded.densekit_sample.argtypes, loaded.densekit_sample.restype = [_P, _P, _I], ctypes.c_double
    return loaded
