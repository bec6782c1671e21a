"""Two files' times in one run: they take turns, so that what disturbs the machine disturbs both."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densekit.inference.runtimes import Run

ROUNDS = 15
_SPAN = 0.02  # seconds a turn lasts at least, by repeating what is quicker


def race(runs: Mapping[str, Run], images: NDArray[Any], batch: int) -> dict[str, float]:
    """Milliseconds of a batch by name, the median of ROUNDS turns each. `images` are repeated to fill the batch."""
    inputs = np.resize(images, (batch, *images.shape[1:]))
    calls = {name: _calls(run, inputs) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                run(inputs)
            times[name].append((time.perf_counter() - start) / calls[name])
    return {name: 1e3 * median(values) for name, values in times.items()}


def _calls(run: Run, inputs: NDArray[Any]) -> int:
    run(inputs)  # the first call prepares
    start = time.perf_counter()
    run(inputs)
    return max(1, min(1000, round(_SPAN / max(time.perf_counter() - start, 1e-9))))
