"""Loads the compiled primitives that suit this processor."""

import ctypes
import functools
import os
import warnings
from pathlib import Path

import torch

from densekit.errors import UnknownName
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
        warnings.warn(
            f"{_path(name)} is older than its sources; python -m densekit.ops.backends.cpu.build", stacklevel=2
        )
    return None


def _path(build: str) -> Path:
    return FOLDER / f"densekit_{build}.so"


# As kernels.cpp declares them: p for a pointer, i for a size, t for the number of threads.
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_ssize_t, "t": ctypes.c_int}
SIGNATURES = {
    "statistics": "pi pp ii t",
    "normalise": "pi pp pi ii t",
    "conv1x1": "pi pi pp i ppp pi pp iii t",
    "conv1x1_backward": "pi pppp pi pi ppp pi ppp ipp iii t",
    "conv3x3": "pi ppp pi iiiii t",
    "conv3x3_backward": "pi pppp pi pi pi ppp pi ppp iiiii t",
    "column_reductions": "pi pi pp ii t",
    "normalise_backward": "pi pi pi ppp pi ii t",
    "bn_relu_pool": "pi pp pi iiiii t",
    "bn_relu_pool_backward": "pi ppp pi pi pp iiiii t",
    "dense_block": "pi p ppi p iiiiiii t",
    "digest": "pp i p t",
}


def _declare(loaded: ctypes.CDLL) -> ctypes.CDLL:
    returning = [(name, codes, ctypes.c_int) for name, codes in SIGNATURES.items()]
    others = [
        ("dense_layer_size", "iii", ctypes.c_ssize_t),
        ("pack_dense_layer", "pppp iii", None),
        ("advise", "pi", None),
    ]
    for name, codes, result in [*returning, *others]:
        function = getattr(loaded, f"densekit_{name}")
        function.argtypes, function.restype = [_TYPES[code] for code in codes if code != " "], result
    return loaded
