"""Rounds in which everybody has a turn, so that what disturbs the machine disturbs all alike."""

import functools
import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)

SPAN = 0.1
"""Seconds a turn lasts at least, by repeating what is quicker: clocks and interrupts are not what is measured."""
TRIAL = 2
"""Rounds before the slower layout of a contender drops out."""
CLEARLY = 1.1
"""How much slower it has to be."""


def estimate(run: Callable[[], None]) -> int:
    """Calls that fill a turn."""
    return max(1, min(1000, math.ceil(SPAN / _seconds(run))))


def play(
    runs: Mapping[Key, Callable[[], None]],
    rounds: int,
    sibling: Callable[[Key], Hashable],
    after: Callable[[int, Key | None], None],
) -> tuple[dict[Key, list[float]], dict[Key, int]]:
    """Seconds of each call, round by round, and how many calls made up a turn.

    Of keys with the same `sibling`, one that is clearly slower after the trial has no more turns. `after` hears of
    every turn (round, key), and of every round's end (round, None).
    """
    calls = {key: estimate(run) for key, run in runs.items()}
    times: dict[Key, list[float]] = {key: [] for key in runs}
    playing = list(runs)
    for number in range(1, rounds + 1):
        for key in playing:
            times[key].append(_turn(runs[key], calls[key]))
            after(number, key)
        if number == TRIAL:
            best: dict[Hashable, float] = {}
            for key in playing:
                best[sibling(key)] = min(best.get(sibling(key), math.inf), *times[key])
            playing = [key for key in playing if min(times[key]) <= CLEARLY * best[sibling(key)]]
        after(number, None)
    return times, calls


def _turn(run: Callable[[], None], calls: int) -> float:
    if calls > 1:
        run()  # who was on before left other data in the caches, and threads that still spin
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


class Peak:
    """What the processor can do, measured: float32 products of matrices, by the two libraries that torch carries.

    MKL multiplies, and holds back on processors of other makers (half of a Zen 5 core's rate); oneDNN convolves, 3x3
    and directly, so that no trick saves multiplications.
    """

    SIZES = (1024, 1536, 2048)
    MAPS = 256

    def __init__(self) -> None:
        self._work: dict[str, tuple[int, Callable[[], object]]] = {}
        for size in self.SIZES:
            a, b, out = torch.ones(size, size), torch.ones(size, size), torch.empty(size, size)
            self._work[f"mm {size}"] = 2 * size**3, functools.partial(torch.mm, a, b, out=out)
        maps = torch.ones(8, self.MAPS, 28, 28).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(self.MAPS, self.MAPS, 3, 3).contiguous(memory_format=torch.channels_last)
        flops = 2 * 9 * self.MAPS**2 * maps[:, 0].numel()
        self._work[f"conv3x3 {self.MAPS}"] = flops, functools.partial(torch.conv2d, maps, weight, padding=1)
        self.rates: dict[str, list[float]] = {name: [] for name in self._work}
        """FLOP/s, a measurement each."""
        for _, run in self._work.values():
            run()  # threads start, and pages are mapped

    def measure(self) -> None:
        """Each three times, of which the best counts."""
        with torch.inference_mode():
            for name, (flops, run) in self._work.items():
                self.rates[name].append(max(flops / _seconds(run) for _ in range(3)))

    @property
    def best(self) -> float:
        """FLOP/s."""
        return max(rate for rates in self.rates.values() for rate in rates)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
