"""What a report says of a model that answers for each class whether an image is of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from densekit.metrics.multi_label import MultiLabelRecords, MultiLabelResult
from densekit.report import binary, pictures, plots

TEMPLATE = "multi_label.html"
CURVES = {"auroc": "AUROC", "loss": "Loss"}
MOST_ACCURATE = "of the highest AUROC on the validation images"


def figures(
    rows: Sequence[dict[str, Any]], kept: int | None, result: MultiLabelResult, records: MultiLabelRecords
) -> Iterator[tuple[str, Figure]]:
    """Curves of AUROC and loss, ROC and precision-recall, and whether its percentages can be trusted."""
    if rows:
        yield "loss", plots.loss_curve(rows, kept)
    if any("val_auroc" in row for row in rows):
        yield "auroc", plots.auroc_curve(rows, kept)
    if result.positive is not None:
        yield from binary.figures(result, *records.known(0))
    else:
        yield "roc", plots.roc_curves(result, records)
        yield "precision_recall", plots.precision_recall_curves(result, records)
    yield "reliability", plots.reliability_diagram(result.reliability, was="was there", answers="labels")


def facts(measured: pictures.Measured, result: MultiLabelResult, records: MultiLabelRecords) -> dict[str, Any]:
    """What only the template of this kind shows."""
    known = ~np.isnan(records.target)
    wrongness = np.where(known, np.abs(records.target - records.score), 0)
    decisions = np.array([row["threshold"] for row in result.per_class])
    wrong = known & ((records.score >= decisions) != (records.target == 1))
    order = np.argsort(-np.where(wrong, wrongness, -1), axis=None, kind="stable")[: min(pictures.MOST, wrong.sum())]
    answers = (_answer(records, *divmod(int(cell), len(measured.classes)), classes=measured.classes) for cell in order)
    return {
        **binary.facts(result, measured),
        "labels": int(known.sum()),
        "undefined": [row["class"] for row in result.per_class if row["auroc"] is None],
        "frequent": float(np.mean([row["count"] / row["known"] for row in result.per_class if row["known"]])),
        "chance_loss": _loss_of_frequencies(result),
        "calibration": _calibration_in_words(result, records),
        "wrong": int(wrong.sum()),
        "mistakes": list(pictures.mistakes(measured, answers)),
    }


def _answer(
    records: MultiLabelRecords, row: int, index: int, *, classes: tuple[str, ...]
) -> tuple[int, str, str, float]:
    there = "it is there" if records.target[row, index] == 1 else "it is not"
    return int(records.sample[row]), there, classes[index], float(records.score[row, index])


def _loss_of_frequencies(result: MultiLabelResult) -> float:
    """Of a model that gives every image the frequency of each class as its probability."""
    counts, known = (np.array([row[key] for row in result.per_class], dtype=float) for key in ("count", "known"))
    share = np.clip(counts / np.maximum(known, 1), 1e-12, 1 - 1e-12)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    return float((entropy * known).sum() / known.sum())


def _calibration_in_words(result: MultiLabelResult, records: MultiLabelRecords) -> str:
    known = ~np.isnan(records.target)
    said, was = float(records.score[known].mean()), float(records.target[known].mean())
    claim = f"On average it gives a finding {said:.1%}, and {was:.1%} are there"
    if result.ece < 0.02:
        return f"{claim}: its percentages can be taken at their word."
    if abs(said - was) < result.ece / 3:
        return f"{claim}, but by turns it says too much and too little: see how far its percentages can be trusted."
    return f"{claim}: its percentages are too {'high' if said > was else 'low'}; the thresholds allow for that."
