"""A loss that is finite and has grown far beyond that of chance: training has diverged, though no number says so."""

import torch

from densekit.training.nonfinite import Fault
from densekit.training.setup import TrainContext
from densekit.training.state import Progress

STEPS = 10
"""So many steps one after the other have to be above the limit: one batch may be an odd one."""
VALIDATIONS = 2
"""Likewise; the last epoch's is one too many."""
# A network that is too sure of its mistakes has a validation loss of a few times that of chance, and is no worse.
_VALIDATION = 4
# Before, the running statistics of batch norm are still those of its initialisation.
_SETTLED = 50
_LABELS = 10_000  # at once


def chance_loss(prepared: TrainContext) -> float:
    """The training loss per image of a network that tells nothing apart, by the run's own loss and labels."""
    every = prepared.data.splits["train"].labels  # which lie class by class
    total = 0.0
    for labels in torch.split(every, _LABELS):
        logits = torch.zeros(len(labels), len(prepared.data.classes), device=prepared.device)
        total += prepared.task.loss(logits, labels.to(prepared.device)).item()
    return total / len(every)


def limit_of(prepared: TrainContext) -> float | None:
    """The training loss per image above which a step counts; None where the recipe sets no limit."""
    growth = prepared.recipe.divergence.growth
    return None if growth is None else growth * chance_loss(prepared)


def after_step(progress: Progress, limit: float | None, loss: float, rate: float) -> Fault | None:
    """Counts a step with this loss per image. The fault, if it is one too many above the limit."""
    if limit is None:
        return None
    progress.high_steps = progress.high_steps + 1 if loss > limit else 0
    if progress.high_steps < STEPS:
        return None
    facts = {"step": progress.step + 1, "loss": loss, "limit": limit}
    place = f"in epoch {progress.epoch + 1}, step {progress.step_in_epoch + 1}"
    return Fault(f"training loss has grown to {loss:.4g} (the limit is {limit:.3g})", place, rate, facts)


def after_validation(progress: Progress, prepared: TrainContext, loss: float | None, rate: float) -> Fault | None:
    """Counts a validation. The fault, if it is one too many above the limit for validations."""
    limit = limit_of(prepared)
    if limit is None or loss is None or progress.step < _SETTLED:
        return None
    limit *= _VALIDATION
    progress.high_validations = progress.high_validations + 1 if loss > limit else 0
    last = progress.epoch + 1 == prepared.recipe.epochs
    if progress.high_validations < (1 if last else VALIDATIONS):
        return None
    facts = {"step": progress.step, "loss": loss, "limit": limit}
    place = f"in epoch {progress.epoch + 1}"
    return Fault(f"validation loss has grown to {loss:.4g} (the limit is {limit:.3g})", place, rate, facts)
