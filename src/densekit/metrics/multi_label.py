"""Every image may be of any number of classes, and of some it may not be known: sigmoid, AUROC, average precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from densekit.errors import BadData
from densekit.metrics import binary, thresholds
from densekit.metrics.calibration import expected_error, reliability


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
class MultiLabelResult(binary.Measures):
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
    """count of images that are of it, known, and of each label what `Measures` has of all: areas, and the metrics at
    `threshold`; `ap` and `recall` are other names of average_precision and sensitivity."""
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
        rates = self.rates_of(binary.HEADLINE) if self.positive is not None else {}
        return {"count": self.count, "auroc": self.auroc, "ap": self.ap, **rates, "loss": self.loss, "ece": self.ece}

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
    """What the share of `num_correct` is called there."""
    classes: tuple[str, ...]
    weights: Tensor | None = None
    """(2, classes): how much it counts in the loss that an image is not, or is, of each; none: all alike."""
    label_smoothing: float = 0.0
    known: float = 1.0
    """Known labels of a training image, on average: by it the loss is one of a label, whatever a batch lacks."""
    thresholds: tuple[float, ...] = ()
    """From which probability on an image is taken to be of a class; none: 1/2."""
    rule: str = "f1"
    """How validation chooses them."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What training lowers, summed over the images: the mean over an image's labels, those not known left out."""
        wanted = targets.nan_to_num()
        smooth = wanted * (1 - self.label_smoothing) + self.label_smoothing / 2
        loss = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        if self.weights is not None:
            loss = loss * torch.lerp(self.weights[0], self.weights[1], wanted)
        return (loss * ~targets.isnan()).sum() / self.known

    def num_correct(self, logits: Tensor, targets: Tensor) -> int:
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
        counts = np.array([(row["count"], row["known"]) for row in per_class]).T
        return MultiLabelResult(
            **facts,
            count=len(rows.sample),
            auroc=_mean([row["auroc"] for row in per_class]),
            ap=_mean([row["ap"] for row in per_class]),
            average_precision=_mean([row["ap"] for row in per_class]),
            loss=float(rows.loss[known].mean()),
            ece=expected_error(bins, int(known.sum())),
            per_class=per_class,
            reliability=bins,
            cautions=binary.cautions(self.classes, counts[0].tolist(), (counts[1] - counts[0]).tolist()),
            **self._rates(rows, per_class),
        ), rows

    def _rates(self, rows: MultiLabelRecords, per_class: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What is measured at thresholds, and what is there of one label alone."""
        means = {name: _mean([row[name] for row in per_class]) for name in binary.RATES}
        if len(self.classes) > 1:
            return means
        one = {"positive": self.classes[0], "threshold": self.decisions()[0]}
        return means | one | binary.curves(*rows.known(0))

    def decisions(self) -> tuple[float, ...]:
        """A threshold for each class."""
        return self.thresholds or (thresholds.UNDECIDED,) * len(self.classes)

    def decided(self, validation: Callable[[], Any]) -> "MultiLabel":
        """With thresholds by the records of a validation, whose images never are those of the test."""
        rows: MultiLabelRecords = validation()
        chosen = (thresholds.choose(self.rule, *rows.known(i)) for i in range(len(self.classes)))
        return replace(self, thresholds=tuple(chosen))


def auroc(target: NDArray[np.bool_], score: NDArray[np.float64]) -> float | None:
    """Area under the ROC curve of one class; none where all images are of it, or none is."""
    return binary.areas(target, score)[0]


def mean_auroc(target: NDArray[np.float32], score: NDArray[np.float64]) -> float | None:
    """Of (N, classes) targets, NaN where not known, and scores: over the classes that have an area; none: nowhere."""
    known = ~np.isnan(target)
    return _mean([auroc(target[there, i] == 1, score[there, i]) for i, there in enumerate(known.T)])


def _of_class(name: str, target: NDArray[np.bool_], score: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    area, precision = binary.areas(target, score)
    rates = binary.rates(target, score >= threshold)
    return {
        "class": name,
        "count": int(target.sum()),
        "known": len(target),
        "auroc": area,
        "ap": precision,
        "average_precision": precision,
        "threshold": threshold,
        "recall": rates["sensitivity"],
        **rates,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
