"""Learning-rate range test (Smith 2017, sec. 3.3): the rate rises exponentially while the network trains.

The network starts from the run's own weights and takes the run's own batches, optimizer and augmentation; only the rate
differs. Nothing is saved.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from densekit.data import Batch, Loader
from densekit.errors import BadData, InvalidInput
from densekit.precision import repeatable
from densekit.training import allocator
from densekit.training.setup import TrainContext
from densekit.training.step import is_whole, pieces_of, share_failures, train_step
from densekit.training.trainer import start

LEAST_STEPS = 20
RISE = 4.0
"""Times its minimum that the smoothed loss may reach before the test ends."""
MARGIN = 10.0
"""The suggestion is the rate of the lowest loss, divided by this."""
_FELL = 0.95  # share of the first smoothed loss that the lowest must be below, or there is nothing to learn from
_WIDTH = 0.02  # of the smoothing, in shares of all steps

Ending = Literal["loss rose", "loss not finite", "highest rate"]


@dataclass(frozen=True)
class RateCurve:
    """The loss by learning rate, and the rate to train with. Rates rise; the lists are of one length."""

    model: str
    data: str
    batch_size: int
    seed: int
    current: float
    """`optimizer.lr` of the recipe."""
    rates: list[float]
    losses: list[float]
    """Mean training loss of each step's batch, before its update."""
    smoothed: list[float]
    """Losses, averaged over neighbouring steps: Gaussian, of their logarithms."""
    ended: Ending
    lowest: float
    """The rate at which the smoothed loss is lowest."""
    steepest: float | None
    """The rate at which it falls fastest, by the logarithm of the rate; none where it never falls."""
    suggestion: float | None
    """A tenth of `lowest`, to two digits; none where the loss did not fall by 5 %."""


def rate_curve(
    prepared: TrainContext,
    *,
    min_lr: float,
    max_lr: float,
    steps: int,
    advance: Callable[[int], None] = lambda _: None,
) -> RateCurve:
    """Trains `prepared` at rates from `min_lr` to `max_lr`, and tells where the loss falls and rises.

    It ends early when the smoothed loss is above `RISE` times its minimum, or not finite. The result depends on the
    recipe, its seed, and the arguments. A collective, where there are several processes.

    Args:
        prepared: data, network and recipe, as for training; its network is trained.
        min_lr: the first rate.
        max_lr: the last rate.
        steps: updates from the first rate to the last.
        advance: is called with 1 after each step.

    Raises:
        InvalidInput: the arguments are no range of rates.
        BadData: no step could be made, or the loss is not finite at the first rates.
    """
    if not 0 < min_lr < max_lr or not math.isfinite(max_lr):
        raise InvalidInput(f"no range of learning rates: {min_lr:g} to {max_lr:g}; the first must be below the second")
    if steps < LEAST_STEPS:
        raise InvalidInput(f"steps={steps} are too few to see where the loss falls; give {LEAST_STEPS} or more")
    rates = np.geomspace(min_lr, max_lr, steps).tolist()
    with repeatable(prepared.device), allocator.retain_freed_memory():
        losses, ended = _losses(prepared, rates, advance)
    recipe = prepared.recipe
    smoothed = _smooth(losses, steps)
    lowest = int(smoothed.argmin())
    slope = np.gradient(smoothed, np.log(rates[: len(losses)]))[: lowest + 1]
    fell = smoothed[lowest] < _FELL * smoothed[0]
    return RateCurve(
        model=recipe.model.name,
        data=prepared.data.name,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        current=recipe.optimizer.lr,
        rates=rates[: len(losses)],
        losses=losses,
        smoothed=smoothed.tolist(),
        ended=ended,
        lowest=rates[lowest],
        steepest=rates[int(slope.argmin())] if slope.min() < 0 else None,
        suggestion=float(f"{rates[lowest] / MARGIN:.2g}") if fell else None,
    )


def _losses(
    prepared: TrainContext, rates: Sequence[float], advance: Callable[[int], None]
) -> tuple[list[float], Ending]:
    """The mean loss of each step, and why there are no more."""
    recipe, world = prepared.recipe, prepared.world
    state = start(prepared)
    state.model.train()
    losses: list[float] = []
    for batch in itertools.islice(_batches(prepared.loader("train", recipe.augment)), 2 * len(rates)):
        counts = share_failures(batch, prepared.data.skipped, world)
        whole = is_whole(batch, world)
        if not pieces_of(counts, recipe, world, whole=whole, epoch=0):
            continue
        outcome = train_step(state, batch, prepared, rates[len(losses)], counts)
        if outcome.fault is not None:
            return _enough(losses), "loss not finite"
        losses.append(outcome.loss / (len(batch.samples) if whole else sum(counts)))
        state.progress.step += 1
        advance(1)
        smoothed = _smooth(losses, len(rates))
        if smoothed[-1] > RISE * smoothed.min():
            return _enough(losses), "loss rose"
        if len(losses) == len(rates):
            break
    return _enough(losses), "highest rate"


def _enough(losses: list[float]) -> list[float]:
    if len(losses) < LEAST_STEPS // 2:
        raise BadData(
            f"the loss was not finite, or rose, within {len(losses)} steps, so that nothing can be said of learning "
            "rates; start at a lower one, and check the data with: densekit data check"
        )
    return losses


def _batches(loader: Loader) -> Iterator[Batch]:
    """Those of one epoch after the other."""
    for epoch in itertools.count():
        with loader.reading(epoch) as batches:
            yield from batches


def _smooth(losses: Sequence[float], steps: int) -> NDArray[np.float64]:
    """Averaged on both sides, so that the curve is not shifted towards higher rates."""
    from scipy.ndimage import gaussian_filter1d  # slow to import, and of no use to a prediction

    logarithms = np.log(np.maximum(losses, np.finfo(np.float64).tiny))
    smoothed: NDArray[np.float64] = np.exp(gaussian_filter1d(logarithms, max(1.0, _WIDTH * steps), mode="nearest"))
    return smoothed
