"""The state of training: all that it changes."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from densekit.weights.folder import not_finite


@dataclass
class Totals:
    """Sums over samples; means are taken once, from them."""

    loss: float = 0.0
    correct: int = 0
    count: int = 0

    def add(self, loss: float, correct: int, count: int) -> None:
        """The same sums of some more samples."""
        self.loss += loss
        self.correct += correct
        self.count += count


@dataclass
class Progress:
    """Where training stands; every number in it is in the checkpoint."""

    epoch: int = 0
    step_in_epoch: int = 0
    """Batches of this epoch that are done, those without a readable image included."""
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    seconds: float = 0.0
    """Trained so far, over all sessions."""
    best_top1: float = -1.0
    """The highest `Result.score`; called so since it was always top-1, and checkpoints have it by this name."""
    val_losses: list[float] = field(default_factory=list)
    """Of each validation so far; checkpoints of older versions have none."""
    val_scores: list[float] = field(default_factory=list)
    """`Result.score` of each."""
    rollbacks: int = 0
    """How often training went back to a checkpoint because something was not finite, or had grown too far."""
    high_steps: int = 0
    """The last steps, one after the other, whose loss was above the limit of `training.loss_growth`."""
    high_validations: int = 0
    """The last validations, likewise."""

    @property
    def doubtful(self) -> bool:
        """Whether a checkpoint of this moment may be one of a training that is diverging."""
        return self.high_steps > 0 or self.high_validations > 0


@dataclass
class TrainState:
    """Everything that training changes."""

    model: nn.Module
    network: nn.Module
    """What a step calls: `model`, or what keeps its copies in several processes together."""
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    scaler: torch.amp.GradScaler
    """Of the loss, in float16; otherwise it does nothing."""
    progress: Progress

    @property
    def result_model(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one."""
        return self.average.module if self.average is not None else self.model

    def tensors(self) -> dict[str, Tensor]:
        """Weights, running statistics and the optimizer's state."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return tensors | {
            f"optimizer.{name}.{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def not_finite(self) -> list[str]:
        """Names of the tensors, those of the average included, with a value that is NaN or infinite."""
        averaged = {} if self.average is None else self.average.module.state_dict()
        return not_finite(self.tensors() | {f"average.{name}": value for name, value in averaged.items()})
