"""Learning rate as a pure function of the share of training done: nothing to save, nothing to resume."""

import math
from collections.abc import Callable

from densekit.config import Recipe, ScheduleConfig
from densekit.training.setup import TrainContext
from densekit.training.state import Progress


def learning_rate(config: ScheduleConfig, lr: float, progress: float) -> float:
    """The rate at `progress` in [0, 1], where `lr` is the highest."""
    return lr * _SHAPES[config.name](config, progress)


def _steps(config: ScheduleConfig, progress: float) -> float:
    return config.factor ** sum(progress >= milestone for milestone in config.milestones)


def _one_cycle(config: ScheduleConfig, progress: float) -> float:
    """Smith and Topin 2018, with cosine flanks: start -> 1 -> end."""
    if progress < config.warmup:
        return _cosine(config.start, 1.0, progress / config.warmup)
    return _cosine(1.0, config.end, (progress - config.warmup) / (1 - config.warmup))


def _warm_cosine(config: ScheduleConfig, progress: float) -> float:
    """Goyal et al. 2017's linear warm-up, then Loshchilov and Hutter 2017's cosine."""
    if progress < config.warmup:
        return config.start + (1 - config.start) * progress / config.warmup
    return _cosine(1.0, config.end, (progress - config.warmup) / (1 - config.warmup))


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


_SHAPES: dict[str, Callable[[ScheduleConfig, float], float]] = {
    "steps": _steps,
    "one_cycle": _one_cycle,
    "cosine": _warm_cosine,
}


def rate_at(recipe: Recipe, progress: Progress, of_epoch: float) -> float:
    """The learning rate after a share of the epoch that `progress` stands in, lowered by its rollbacks."""
    share = (progress.epoch + of_epoch) / recipe.epochs
    return learning_rate(recipe.schedule, recipe.optimizer.lr, share) * recipe.divergence.factor**progress.rollbacks


def last_rate(prepared: TrainContext, progress: Progress) -> float:
    """The learning rate of the last step, or of the first step if none was made."""
    steps = len(prepared.loader("train", prepared.recipe.augment))
    return rate_at(prepared.recipe, progress, max(0, progress.step_in_epoch - 1) / steps)
