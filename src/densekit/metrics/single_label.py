"""Every image is of one class: softmax, cross entropy, top-1."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from densekit.metrics import binary, thresholds
from densekit.metrics.calibration import expected_error, reliability


@dataclass(frozen=True)
class Records:
    """One row a sample, in the split's order."""

    sample: NDArray[np.int64]
    target: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    """Probability of the predicted class."""
    rank: NDArray[np.int64]
    """How many classes scored above the true one."""
    loss: NDArray[np.float64]
    """Cross entropy, without label smoothing."""
    score: NDArray[np.float64] | None = None
    """Of two classes, or where the task keeps them: (N, classes), the probability of each."""


@dataclass(frozen=True)
class Result(binary.Measures):
    """Metrics of one split; fractions, not percent."""

    model: str
    data: str
    split: str
    count: int
    top1: float
    top5: float
    loss: float
    ece: float
    """Expected calibration error, 15 equal bins, L1 (Guo et al. 2017)."""
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    """Rows are true classes, columns predicted ones."""
    reliability: list[dict[str, float]]
    """Per bin: count, mean confidence, accuracy."""
    seconds: float
    skipped: list[dict[str, str]] = field(default_factory=list)
    early_stop: dict[str, Any] | None = None
    """Of a run that early stopping ended: `early_stopping.EarlyStop` as a dictionary."""
    auroc: float | None = None
    """Of two classes; None of more."""

    def headline(self) -> dict[str, float | None]:
        """What a model card says."""
        names = ("auroc", "average_precision", *binary.HEADLINE) if self.positive is not None else ()
        rates = self.rates_of(names)
        return {"count": self.count, "top1": self.top1, "top5": self.top5, **rates, "loss": self.loss, "ece": self.ece}

    def epoch_row(self) -> dict[str, float | None]:
        """What metrics.jsonl says of a validation."""
        return {"loss": self.loss, "top1": self.top1, "ece": self.ece}

    @property
    def score(self) -> float:
        """What `select=best` compares."""
        return self.top1


@dataclass(frozen=True)
class SingleLabel:
    """Targets are (N,) int64, or (N, classes) shares where images were mixed."""

    kind: ClassVar[Literal["single-label"]] = "single-label"
    metric: ClassVar[str] = "top1"
    """What `Result.score` is called in metrics.jsonl."""
    hit: ClassVar[str] = "top1"
    """What the share of `num_correct` is called there."""
    classes: tuple[str, ...]
    weights: Tensor | None = None
    """(classes,): how much an image of each counts in the loss, 1 on average; none: all alike."""
    label_smoothing: float = 0.0
    keep_scores: bool = False
    """Whether records hold the probability of each class: 8 bytes a class and image. Of two classes they do."""
    thresholds: tuple[float, ...] = ()
    """Of two classes, from which probability on an image is taken to be of each: t, and 1 - t; none: 1/2."""
    rule: str = "youden"
    """How validation chooses them."""
    positive: str | None = None
    """Of two classes, the one that binary metrics are about; none: the second."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What training lowers, summed over the images."""
        return F.cross_entropy(
            logits, targets, weight=self.weights, label_smoothing=self.label_smoothing, reduction="sum"
        )

    def num_correct(self, logits: Tensor, targets: Tensor) -> int:
        """How many images were recognised; of mixed ones, the larger part."""
        return int((logits.argmax(1) == (targets if targets.dim() == 1 else targets.argmax(1))).sum())

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, classes), which sum to 1."""
        return logits.softmax(1)

    def columns(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """A batch's part of `Records`, without the samples."""
        confidence, predicted = logits.softmax(1).max(1)
        loss = F.cross_entropy(logits, targets, reduction="none")
        # In float32 they would not sum to 1.
        kept = (logits.double().softmax(1),) if self.keep_scores or self.at is not None else ()
        return targets, predicted, confidence.double(), _rank(logits, targets), loss.double(), *kept

    @property
    def at(self) -> int | None:
        """Of two classes, where the positive one is; None of more."""
        if len(self.classes) != 2:
            return None
        return 1 if self.positive is None else self.classes.index(self.positive)

    def measure(self, columns: Sequence[NDArray[Any]], facts: Mapping[str, Any]) -> tuple[Result, Records]:
        """From the columns of all samples, in the split's order; `facts` are what else a `Result` holds."""
        from sklearn.metrics import confusion_matrix  # slow to import, and of no use to a prediction

        rows = Records(*columns)
        matrix = confusion_matrix(rows.target, rows.predicted, labels=range(len(self.classes)))
        bins = reliability(rows.confidence, rows.predicted == rows.target)
        return Result(
            **facts,
            count=len(rows.sample),
            top1=float((rows.predicted == rows.target).mean()),
            top5=float((rows.rank < 5).mean()),
            loss=float(rows.loss.mean()),
            ece=expected_error(bins, len(rows.sample)),
            per_class=_per_class(matrix, self.classes),
            confusion=matrix.tolist(),
            reliability=bins,
            **self._of_two(rows, matrix),
        ), rows

    def _of_two(self, rows: Records, matrix: NDArray[np.int64]) -> dict[str, Any]:
        """What is there of two classes alone, and the balanced accuracy of more."""
        if self.at is None or rows.score is None:
            there = matrix.sum(1) > 0
            return {"balanced_accuracy": float((matrix.diagonal()[there] / matrix.sum(1)[there]).mean())}
        target, threshold = rows.target == self.at, self.threshold
        area, precision = binary.areas(target, rows.score[:, self.at])
        name, positives = self.classes[self.at], int(target.sum())
        return {
            "positive": name,
            "threshold": threshold,
            "auroc": area,
            "average_precision": precision,
            "cautions": binary.cautions((name,), (positives,), (len(target) - positives,)),
            **binary.rates(target, rows.score[:, self.at] >= threshold),
            **binary.curves(target, rows.score[:, self.at]),
        }

    @property
    def threshold(self) -> float:
        """Of two classes, the probability from which on an image is taken to be of the positive one."""
        return self.thresholds[self.at] if self.thresholds and self.at is not None else thresholds.UNDECIDED

    def decisions(self) -> tuple[float, ...]:
        """None: the most probable class is taken."""
        return ()

    def decided(self, validation: Callable[[], Any]) -> "SingleLabel":
        """Of two classes, with a threshold by the records of a validation, whose images never are those of the test."""
        if self.at is None:
            return self
        rows: Records = validation()
        assert rows.score is not None
        chosen = thresholds.choose(self.rule, rows.target == self.at, rows.score[:, self.at])
        return replace(self, thresholds=(1 - chosen, chosen) if self.at else (chosen, 1 - chosen))


def _rank(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, classes), (N,) -> (N,): classes ahead of the true one. Of equals the first is ahead; all are, of a NaN."""
    of_target = logits.gather(1, targets[:, None])
    later = torch.arange(logits.shape[1], device=logits.device) > targets[:, None]
    behind = (logits < of_target) | ((logits == of_target) & later)
    return (~behind).sum(1) - 1


def _per_class(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    hits, actual, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    return [
        {
            "class": name,
            "count": int(actual[i]),
            # Of a class that was never predicted, or never there, the share is not known.
            "precision": float(hits[i] / predicted[i]) if predicted[i] and actual[i] else None,
            "recall": float(hits[i] / actual[i]) if actual[i] else None,
        }
        for i, name in enumerate(classes)
    ]
