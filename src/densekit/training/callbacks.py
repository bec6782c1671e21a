"""What the training loop tells whoever watches it, such as the terminal's progress bar."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class TrainingCallback(Protocol):
    """Hears of every step, epoch and evaluation; what it does changes nothing that is computed."""

    def log(self, line: str) -> None:
        """A message for people."""

    def training(self, epochs: int, steps: int, done: int) -> AbstractContextManager[None]:
        """Encloses the loop.

        Args:
            epochs: of the whole run.
            steps: in each epoch.
            done: steps from before.
        """

    def step(self, *, epoch: int, step: int, images: int, accuracy: float, loss: float, rate: float) -> None:
        """After a step.

        Args:
            epoch: which is trained, from 1.
            step: steps done before this one, over all epochs.
            images: samples of this step.
            accuracy: share of right answers in this epoch so far.
            loss: mean loss of this epoch so far.
            rate: the step's learning rate.
        """

    def epoch(self, row: dict[str, Any]) -> None:
        """After an epoch, with its row of metrics.jsonl."""

    def evaluating(self, split: str, images: int) -> AbstractContextManager[Callable[[int], None]]:
        """Encloses an evaluation over `images`; gives what to call with the number just done."""
