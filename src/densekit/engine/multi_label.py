"""Every image may be of any number of classes, and of some it may not be known: sigmoid, AUROC, average precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from densekit.engine.calibration import expected_error, reliability
from densekit.errors import BadData

UNDECIDED = 0.5
"""A threshold where validation cannot choose one."""


@dataclass(frozen=True)
class MultiLabelRecords:
    """One row a sample, in the split's order; all but `sample` are (N, classes)."""

    sample: NDArray[np.int64]
    target: NDArray[np.float32]
    """1, 0, or NaN where not known."""
    score: NDArray[np.float64]
    """Probability of each class."""
    loss: NDArray[np.float64]
    """Binary cross entropy, without label smoothing; NaN where not known."""

    def known(self, index: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Targets and scores of one class, where it is known."""
        there = ~np.isnan(self.target[:, index])
        return self.target[there, index] == 1, self.score[there, index]


@dataclass(frozen=True)
class MultiLabelResult:
    """Metrics of one split, of the labels that are known; fractions, not percent."""

    model: str
    data: str
    split: str
    count: int
    auroc: float | None
    """Mean of the classes' areas under the ROC curve, where they have one; none: nowhere."""
    ap: float | None
    """Mean of the classes' average precisions, likewise."""
    loss: float
    ece: float
    """Expected calibration error of all probabilities, 15 equal bins, L1."""
    per_class: list[dict[str, Any]]
    """count of images that are of it, known, auroc, ap; and at `threshold` precision, recall, specificity."""
    reliability: list[dict[str, float]]
    """Per bin of probability: count, mean, and share that was so."""
    seconds: float
    skipped: list[dict[str, str]] = field(default_factory=list)
    early_stop: dict[str, Any] | None = None
    """Of a run that early stopping ended: `early_stopping.EarlyStop` as a dictionary."""
    top1: None = None
    """Not defined here, as `top5`; there so that a program may ask."""
    top5: None = None

    def headline(self) -> dict[str, float | None]:
        """What a model card says."""
        return {"count": self.count, "auroc": self.auroc, "ap": self.ap, "loss": self.loss, "ece": self.ece}

    def epoch_row(self) -> dict[str, float | None]:
        """What metrics.jsonl says of a validation."""
        return {"loss": self.loss, "auroc": self.auroc, "ap": self.ap, "ece": self.ece}

    @property
    def score(self) -> float:
        """What `select=best` compares; 0 where nothing can be compared."""
        return self.auroc or 0.0


@dataclass(frozen=True)
class MultiLabel:
    """Targets are (N, classes) float32: 1, 0, between them where images were mixed, NaN where not known."""

    kind: ClassVar[Literal["multi-label"]] = "multi-label"
    metric: ClassVar[str] = "auroc"
    """What `MultiLabelResult.score` is called in metrics.jsonl."""
    hit: ClassVar[str] = "exact"
    """What the share of `hits` is called there."""
    classes: tuple[str, ...]
    weights: Tensor | None = None
    """(2, classes): how much it counts in the loss that an image is not, or is, of each; none: all alike."""
    label_smoothing: float = 0.0
    known: float = 1.0
    """Known labels of a training image, on average: by it the loss is one of a label, whatever a batch lacks."""
    thresholds: tuple[float, ...] = ()
    """From which probability on an image is taken to be of a class; none: 1/2."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What training lowers, summed over the images: the mean over an image's labels, those not known left out."""
        wanted = targets.nan_to_num()
        smooth = wanted * (1 - self.label_smoothing) + self.label_smoothing / 2
        loss = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        if self.weights is not None:
            loss = loss * torch.lerp(self.weights[0], self.weights[1], wanted)
        return (loss * ~targets.isnan()).sum() / self.known

    def hits(self, logits: Tensor, targets: Tensor) -> int:
        """How many images have every known label on the right side of 1/2."""
        return int((((logits > 0) == (targets > 0.5)) | targets.isnan()).all(1).sum())

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, classes), each for itself."""
        return logits.sigmoid()

    def columns(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """A batch's part of `MultiLabelRecords`, without the samples."""
        logits = logits.double()  # in float32 the surest become equal, and their order is lost
        loss = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num().double(), reduction="none")
        return targets, logits.sigmoid(), loss.masked_fill(targets.isnan(), torch.nan)

    def measure(
        self, columns: Sequence[NDArray[Any]], facts: Mapping[str, Any]
    ) -> tuple[MultiLabelResult, MultiLabelRecords]:
        """From the columns of all samples, in the split's order; `facts` are what else a result holds."""
        rows = MultiLabelRecords(*columns)
        known = ~np.isnan(rows.target)
        if not known.any():
            raise BadData(f"no label of the {facts['split']} images of {facts['data']} is known; choose another split")
        per_class = [
            _of_class(name, *rows.known(i), threshold)
            for i, (name, threshold) in enumerate(zip(self.classes, self.decisions(), strict=True))
        ]
        bins = reliability(rows.score[known], rows.target[known] == 1)
        return MultiLabelResult(
            **facts,
            count=len(rows.sample),
            auroc=_mean([row["auroc"] for row in per_class]),
            ap=_mean([row["ap"] for row in per_class]),
            loss=float(rows.loss[known].mean()),
            ece=expected_error(bins, int(known.sum())),
            per_class=per_class,
            reliability=bins,
        ), rows

    def decisions(self) -> tuple[float, ...]:
        """A threshold for each class."""
        return self.thresholds or (UNDECIDED,) * len(self.classes)

    def decided(self, validation: Callable[[], Any]) -> "MultiLabel":
        """With thresholds by the records of a validation, whose images never are those of the test."""
        rows: MultiLabelRecords = validation()
        return replace(self, thresholds=tuple(best_threshold(*rows.known(i)) for i in range(len(self.classes))))


def best_threshold(target: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Where F1 is highest: midway between the lowest score that is taken and the next below; 1/2 without a choice."""
    if not 0 < target.sum() < len(target):
        return UNDECIDED
    from sklearn.metrics import precision_recall_curve  # slow to import, and of no use to a prediction

    precision, recall, scores = precision_recall_curve(target, score)
    # No row is 0/0: at every score something is taken, and where none of it is right both are 0.
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1[:-1].argmax())
    return float((scores[best] + (scores[best - 1] if best else 0.0)) / 2)


def auroc(target: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve of one class; none where all images are of it, or none is."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(target, score)) if 0 < target.sum() < len(target) else None


def mean_auroc(target: NDArray[np.float32], score: NDArray[np.float64]) -> float | None:
    """Of (N, classes) targets, NaN where not known, and scores: over the classes that have an area; none: nowhere."""
    known = ~np.isnan(target)
    return _mean([auroc(target[there, i] == 1, score[there, i]) for i, there in enumerate(known.T)])


def _of_class(name: str, target: NDArray[np.bool_], score: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score

    taken, count, known = score >= threshold, int(target.sum()), len(target)
    both = 0 < count < known
    return {
        "class": name,
        "count": count,
        "known": known,
        "auroc": auroc(target, score),
        "ap": float(average_precision_score(target, score)) if both else None,
        "threshold": threshold,
        "precision": float(target[taken].mean()) if taken.any() and count else None,
        "recall": float(taken[target].mean()) if count else None,
        "specificity": float(1 - taken[~target].mean()) if count < known else None,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
