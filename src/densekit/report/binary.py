"""What a report shows of a binary task: ROC and precision-recall curves, the threshold, metrics with intervals."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from densekit.metrics.binary import Measures
from densekit.metrics.task import Result
from densekit.report import plots
from densekit.report.pictures import Measured

# Field -> its name, what it means, and whether it is a percentage.
_ROWS = {
    "auroc": ("AUROC", "how often a positive image scores above a negative one; guessing gives 0.5", False),
    "average_precision": ("average precision", "area under precision by recall; guessing gives the prevalence", False),
    "sensitivity": ("sensitivity (recall)", "of the positive images, those that are found", True),
    "specificity": ("specificity", "of the negative images, those that are not taken", True),
    "precision": ("precision", "of those that are taken, the positive ones", True),
    "f1": ("F1", "harmonic mean of precision and recall", False),
    "accuracy": ("accuracy", "of all images, those on the right side of the threshold", True),
    "balanced_accuracy": ("balanced accuracy", "mean of sensitivity and specificity", True),
}


def figures(result: Result, target: NDArray[np.bool_], score: NDArray[np.float64]) -> Iterator[tuple[str, Figure]]:
    """Both curves of (N,) labels and probabilities, with the threshold marked; none without positives or negatives."""
    if result.auroc is None:
        return
    false, true, _ = roc_curve(target, score)
    figure, axes = plots.square(f"ROC, area {result.auroc:.3f}", "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=plots.INK, lw=1, ls="--", label="guessing")
    axes.plot(false, true, color=plots.TRAIN, lw=2, label="this model")
    if result.sensitivity is not None and result.specificity is not None:
        plots.mark(axes, 1 - result.specificity, result.sensitivity, f"threshold {result.threshold:.3g}")
    axes.legend(frameon=False, labelcolor=plots.INK, loc="lower right")
    yield "roc", figure
    precision, recall, _ = precision_recall_curve(target, score)
    title = f"Precision and recall, average precision {result.average_precision:.3f}"
    figure, axes = plots.square(title, "recall (sensitivity)", "precision")
    axes.axhline(target.mean(), color=plots.INK, lw=1, ls="--", label="guessing")
    axes.plot(recall, precision, color=plots.TRAIN, lw=2, drawstyle="steps-post", label="this model")
    if result.precision is not None and result.sensitivity is not None:
        plots.mark(axes, result.sensitivity, result.precision, f"threshold {result.threshold:.3g}")
    axes.legend(frameon=False, labelcolor=plots.INK, loc="lower left")
    yield "precision_recall", figure


def facts(result: Result, measured: Measured) -> dict[str, Any]:
    """What `binary.html` shows."""
    return {
        "measures": list(_rows(result)),
        "rule": _in_words(measured.rule),
        "chosen": measured.thresholds_chosen,
        "chose": measured.chose_thresholds,
    }


def shown(value: float | None, interval: Any, *, percent: bool) -> Mapping[str, str]:
    """A number and its interval, as the page writes them."""
    form = "{:.1%}".format if percent else "{:.3f}".format
    return {
        "value": "n/a" if value is None else form(value),
        "interval": "" if interval is None else " to ".join(map(form, interval)),
    }


def _rows(result: Measures) -> Iterator[Mapping[str, str]]:
    for name, (title, meaning, percent) in _ROWS.items():
        number = shown(getattr(result, name), getattr(result, f"{name}_interval", None), percent=percent)
        yield {"name": title, "meaning": meaning, **number}


def _in_words(rule: str | None) -> str:
    if rule is None:
        return "the one that was chosen"
    name, _, wanted = rule.partition(":")
    if name == "sensitivity":
        return f"the highest with a sensitivity of {float(wanted):.1%} or more"
    return "where F1 is highest" if name == "f1" else "where sensitivity + specificity is highest (Youden)"
