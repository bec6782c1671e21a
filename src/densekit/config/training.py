"""Settings of the parts of training."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from densekit.config.fields import Fraction, Frozen


class OptimizerConfig(Frozen):
    """SGD as the paper's sec. 4.2: weight decay is wd * w in the gradient, on all parameters."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    """The schedule's highest learning rate."""
    body_lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of it for all parameters but those of the head, which in fine-tuning is new and the rest is not."""
    momentum: Fraction = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 1e-4
    no_decay: tuple[str, ...] = ()
    """Parameters without weight decay, by name: patterns such as "*.bias" and "*norm*"."""
    clip_norm: PositiveFloat | None = None
    """Gradients whose norm, over all parameters, is greater are scaled down to it."""


class ScheduleConfig(Frozen):
    """Learning rate as a function of the share of training done."""

    name: Literal["steps", "one_cycle", "cosine"] = "one_cycle"
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    """steps: where the rate falls, as shares of all epochs."""
    factor: PositiveFloat = 0.1
    """steps: by how much."""
    warmup: Fraction = 0.25
    """one_cycle, cosine: share of training in which the rate rises."""
    start: PositiveFloat = 0.04
    """one_cycle, cosine: first rate, as a share of lr."""
    end: NonNegativeFloat = 1e-4
    """one_cycle, cosine: last rate, as a share of lr."""


class EmaConfig(Frozen):
    """Exponential moving average of the weights, evaluated and shipped in their place."""

    decay: Fraction = 0.0
    """0 switches it off. Early on the decay is (1 + steps) / (10 + steps), if that is less."""


class CheckpointConfig(Frozen):
    """When the state is saved, besides the end of each epoch and a stop by signal."""

    every_steps: PositiveInt | None = None
    every_seconds: PositiveFloat | None = 300.0


class DivergenceConfig(Frozen):
    """What happens when the loss is not a finite number, or grows far beyond the loss of chance."""

    rollbacks: NonNegativeInt = 0
    """How often training may go back to its last checkpoint and on at a lower rate, before it stops."""
    factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """What the rate is multiplied by, each time."""
    growth: Annotated[float, Field(gt=1.0)] | None = None
    """Training has diverged when its loss is so many times that of chance for 10 steps; none: any finite loss will do.

    A validation loss of four times that, twice, goes back too where a rollback is left, and is named where none is.
    """


class EarlyStoppingConfig(Frozen):
    """Ends training when a metric of the validation images stops improving."""

    patience: PositiveInt | None = None
    """Epochs in a row without an improvement after which training ends; none: it never does."""
    metric: Literal["loss", "score"] = "loss"
    """The validation loss, or what select=best compares: accuracy, or AUROC of several labels."""
    min_delta: NonNegativeFloat = 0.0
    """By how much more than this the metric has to change to count as improved."""
