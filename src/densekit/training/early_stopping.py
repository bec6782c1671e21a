"""Early stopping as a pure function of the validations so far, which the checkpoint holds: there is no other state."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densekit.config import Recipe
from densekit.distributed.process_group import ALONE, DistributedContext
from densekit.formatting import counted
from densekit.training.state import Progress

NAMES = {"loss": "validation loss", "top1": "validation accuracy", "auroc": "validation AUROC"}


@dataclass(frozen=True)
class EarlyStop:
    """Why training ended before its last epoch. Epochs count from 1."""

    epoch: int
    """The last one trained."""
    epochs: int
    """What the recipe allows, and the schedule was made for."""
    metric: str
    """`loss`, or what `Result.score` is called in metrics.jsonl."""
    best_epoch: int
    """The last one that improved the metric by more than min_delta."""
    best: float
    """The metric then."""
    patience: int

    def words(self) -> str:
        """One sentence without a full stop, for messages and the report."""
        name = NAMES.get(self.metric, self.metric)
        return (
            f"training stopped early after epoch {self.epoch} of {self.epochs}: the {name} had not improved for "
            f"{counted(self.epoch - self.best_epoch, 'epoch')}, since epoch {self.best_epoch} ({self.best:.4g})"
        )


def early_stop(recipe: Recipe, progress: Progress, metric: str, world: DistributedContext = ALONE) -> EarlyStop | None:
    """Whether training ends after the epochs of `progress`. A collective: rank 0 decides for all processes.

    Args:
        recipe: its `early_stopping` says when.
        progress: with the validations of its epochs.
        metric: what the task calls its score.
        world: the processes of the run.

    Returns:
        Why training ends, or None where it goes on, as it always does without `early_stopping.patience`.
    """
    if recipe.early_stopping.patience is None:
        return None
    return world.run_on_main(lambda: _decide(recipe, progress, metric))


def is_finished(recipe: Recipe, progress: Mapping[str, Any]) -> bool:
    """Whether nothing is left to train after the progress that a checkpoint's document holds."""
    done = Progress(**progress)
    return done.epoch >= recipe.epochs or _decide(recipe, done, "") is not None


def _decide(recipe: Recipe, progress: Progress, score: str) -> EarlyStop | None:
    config = recipe.early_stopping
    by_loss = config.metric == "loss"
    values = progress.val_losses if by_loss else progress.val_scores
    best, at = math.inf, 0
    for i, value in enumerate(values):
        lower = value if by_loss else -value
        if lower < best - config.min_delta:
            best, at = lower, i
    if config.patience is None or len(values) - 1 - at < config.patience or progress.epoch >= recipe.epochs:
        return None
    # Checkpoints of older versions hold no validations: then the first that is known is not of epoch 1.
    best_epoch = progress.epoch - len(values) + at + 1
    metric = "loss" if by_loss else score
    return EarlyStop(progress.epoch, recipe.epochs, metric, best_epoch, values[at], config.patience)
