"""Metrics of one label that an image has or has not: areas, curves, and what a threshold makes of the scores.

Shapes: N images of which the label is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densekit.formatting import counted, listed
from densekit.metrics.bootstrap import Interval

FEW = 20
"""Positives or negatives below which a metric is called uncertain."""
SHARES = ("sensitivity", "specificity", "precision", "accuracy")
RATES = (*SHARES, "f1", "balanced_accuracy")
"""What `rates` gives."""
HEADLINE = ("sensitivity", "specificity", "threshold")
"""What a model card says besides the areas."""
_POINTS = 200


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What binary tasks have besides, and the 95 % intervals of all metrics; None where a metric is not defined.

    Of several labels the means of the labels' own.
    """

    positive: str | None = None
    """The class or label that sensitivity, precision and the areas are about."""
    threshold: float | None = None
    """Probability from which on an image is taken to be positive; chosen on validation images, else 1/2."""
    average_precision: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    precision: float | None = None
    f1: float | None = None
    accuracy: float | None = None
    """At the threshold; `top1` is of the most probable class."""
    balanced_accuracy: float | None = None
    """Mean of sensitivity and specificity at the threshold; of three classes or more the mean recall."""
    roc: dict[str, list[float]] | None = None
    """fpr and tpr, 200 points at most."""
    precision_recall: dict[str, list[float]] | None = None
    """recall and precision, likewise."""
    cautions: list[str] = field(default_factory=list)
    """What a reader of the numbers should know."""
    top1_interval: Interval | None = None
    top5_interval: Interval | None = None
    loss_interval: Interval | None = None
    ece_interval: Interval | None = None
    auroc_interval: Interval | None = None
    average_precision_interval: Interval | None = None
    sensitivity_interval: Interval | None = None
    specificity_interval: Interval | None = None
    precision_interval: Interval | None = None
    f1_interval: Interval | None = None
    accuracy_interval: Interval | None = None
    balanced_accuracy_interval: Interval | None = None

    def rates_of(self, names: Sequence[str]) -> dict[str, Any]:
        """Metrics by name."""
        return {name: getattr(self, name) for name in names}

    def intervals(self) -> dict[str, Interval]:
        """Those that are known, by field."""
        names = [each.name for each in fields(self) if each.name.endswith("_interval")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def areas(target: NDArray[np.bool_], score: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """AUROC and average precision; none where all images have the label, or none has."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not 0 < target.sum() < len(target):
        return None, None
    return float(roc_auc_score(target, score)), float(average_precision_score(target, score))


def rates(target: NDArray[np.bool_], taken: NDArray[np.bool_]) -> dict[str, float | None]:
    """Metrics of (N,) answers by name; None for those without an image to count."""
    right = taken == target
    sensitivity, specificity = _share(right[target]), _share(right[~target])
    found = 2 * int((taken & target).sum())
    all_taken = int(taken.sum() + target.sum())
    both = None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _share(right[taken]) if target.any() else None,
        "f1": found / all_taken if target.any() else None,
        "accuracy": _share(right),
        "balanced_accuracy": both,
    }


def curves(target: NDArray[np.bool_], score: NDArray[np.float64]) -> dict[str, dict[str, list[float]] | None]:
    """`roc` and `precision_recall`, thinned to 200 points; None where there is no curve."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    if not 0 < target.sum() < len(target):
        return {"roc": None, "precision_recall": None}
    false, true, _ = roc_curve(target, score)
    precision, recall, _ = precision_recall_curve(target, score, drop_intermediate=True)
    return {
        "roc": {"fpr": _thinned(false), "tpr": _thinned(true)},
        "precision_recall": {"recall": _thinned(recall[::-1]), "precision": _thinned(precision[::-1])},
    }


def cautions(names: Sequence[str], positives: Sequence[int], negatives: Sequence[int]) -> list[str]:
    """A line for the labels with few images that have them, and one for those with few that have not."""
    lines = []
    for what, counts in (("positives", positives), ("negatives", negatives)):
        few = [(name, count) for name, count in zip(names, counts, strict=True) if count < FEW]
        if few:
            shown = listed([f"{name} {count}" for name, count in few])
            lines.append(f"fewer than {FEW} {what}, so that metrics are uncertain: {shown}")
    return lines


def caution_of_groups(groups: int) -> list[str]:
    """A line where intervals rest on few groups."""
    if groups >= FEW:
        return []
    return [f"the images are of {counted(groups, 'group')}, fewer than {FEW}: the intervals may be too narrow"]


def _share(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None


def _thinned(values: NDArray[np.float64]) -> list[float]:
    at = np.unique(np.linspace(0, len(values) - 1, min(_POINTS, len(values))).round().astype(int))
    return [float(value) for value in values[at]]
