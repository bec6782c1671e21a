"""What a report says of a model that names one class an image."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from densekit.metrics import bootstrap
from densekit.metrics.single_label import Records, Result
from densekit.report import binary, pictures, plots

TEMPLATE = "single_label.html"
CURVES = {"accuracy": "Accuracy", "loss": "Loss"}
MOST_ACCURATE = "the most accurate on the validation images"
_PAIRS = 12


def figures(
    rows: Sequence[dict[str, Any]], kept: int | None, result: Result, records: Records
) -> Iterator[tuple[str, Figure]]:
    """Curves of accuracy and loss, the confusion matrix, and whether its percentages can be trusted."""
    if rows:
        yield "loss", plots.loss_curve(rows, kept)
        yield "accuracy", plots.accuracy_curve(rows, kept)
    if result.positive is not None and records.score is not None:
        positive = [row["class"] for row in result.per_class].index(result.positive)
        yield from binary.figures(result, records.target == positive, records.score[:, positive])
    yield "confusion", plots.confusion_matrix(result)
    yield "reliability", plots.reliability_diagram(result.reliability)


def facts(measured: pictures.Measured, result: Result, records: Records) -> dict[str, Any]:
    """What only the template of this kind shows."""
    right, classes = round(result.top1 * result.count), measured.classes
    wrong = np.flatnonzero(records.predicted != records.target)
    surest = wrong[np.argsort(-records.confidence[wrong], kind="stable")][: pictures.MOST]
    answers = (
        (int(records.sample[row]), classes[records.target[row]], classes[records.predicted[row]], float(confidence))
        for row, confidence in zip(surest, records.confidence[surest], strict=True)
    )
    return {
        **binary.facts(result, measured),
        "right": right,
        "interval": result.top1_interval or wilson(right, result.count),
        "commonest": max(row["count"] for row in result.per_class) / result.count,
        "chance_loss": math.log(len(classes)),
        "calibration": calibration_in_words(result, records),
        "most_numbered": plots.MOST_NUMBERED,
        "pairs": confused_pairs(result),
        "wrong": len(wrong),
        "mistakes": list(pictures.mistakes(measured, answers)),
    }


def wilson(right: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927): where the accuracy on other images of this kind probably lies."""
    low, high = bootstrap.wilson(right / count, count)
    return low, high


def calibration_in_words(result: Result, records: Records) -> str:
    """What the calibration error means for somebody who reads the model's percentages."""
    sure, right = float(records.confidence.mean()), result.top1
    claim = f"On average it says it is {sure:.1%} sure, and it is right {right:.1%} of the time"
    if result.ece < 0.02:
        return f"{claim}: its percentages can be taken at their word."
    if abs(sure - right) < result.ece / 3:
        return f"{claim}, but by turns too sure and too modest: see how far its percentages can be trusted below."
    return f"{claim}: {'too sure of itself' if sure > right else 'more modest than it needs to be'}."


def confused_pairs(result: Result) -> list[dict[str, Any]]:
    """The commonest mistakes: true class, answer, how often, and of how many."""
    counts = np.array(result.confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [
        {
            "true": result.per_class[i]["class"],
            "predicted": result.per_class[j]["class"],
            "count": int(counts[i, j]),
            "of": result.per_class[i]["count"],
        }
        for i, j in cells
        if counts[i, j]
    ]
