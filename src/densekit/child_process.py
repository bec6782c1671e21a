"""The environment of processes that densekit starts."""

import os
from collections.abc import Mapping
from pathlib import Path

_THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def with_this_package(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environment` in which Python finds this very densekit.

    Also where it was found by a relative path, and the child starts in another folder.
    """
    places = [str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(places)}


def thread_counts(count: int) -> dict[str, str]:
    """Variables that give the libraries of a child so many threads."""
    return dict.fromkeys(_THREAD_COUNTS, str(count))
