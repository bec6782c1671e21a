"""The figures of a report, as SVG: sharp at any size and on paper, with letters as shapes, so any font is everywhere.

Only matplotlib's objects are used, never pyplot: it keeps figures and settings for the whole process.
"""

import io
from collections.abc import Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn.metrics import precision_recall_curve, roc_curve

from densekit.metrics.multi_label import MultiLabelRecords, MultiLabelResult
from densekit.metrics.single_label import Result as SingleResult

# Okabe and Ito 2008: told apart with any colour vision. One meaning each, on the whole page.
TRAIN, VAL, RATE, INK, FAINT = "#0072B2", "#D55E00", "#009E73", "#33404d", "#d9dfe5"

# Of Petroff 2021, ten that can be told apart, and the same darker.
_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
    "#1f5587", "#a86d00", "#5f1000", "#566664", "#46176a", "#5c382e", "#8a3b00", "#6f6640", "#3a3d45", "#418a8d",
)  # fmt: skip

MOST_NUMBERED = 30
"""Classes up to which a confusion matrix is written out; beyond, nobody reads its numbers."""


def loss_curve(rows: Sequence[dict[str, Any]], kept: int | None) -> Figure:
    """Loss on training and validation images by epoch; `kept` marks the epoch whose weights were chosen."""
    figure, axes = titled("Loss (lower is better)")
    _curves(axes, rows, "loss", kept)
    axes.set_ylim(bottom=0)
    return figure


def accuracy_curve(rows: Sequence[dict[str, Any]], kept: int | None) -> Figure:
    """Share of right answers on training and validation images by epoch."""
    figure, axes = titled("Accuracy (higher is better)")
    _curves(axes, rows, "top1", kept)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def auroc_curve(rows: Sequence[dict[str, Any]], kept: int | None) -> Figure:
    """Mean AUROC of the classes on validation images by epoch."""
    figure, axes = titled("AUROC (higher is better)")
    _curves(axes, rows, "auroc", kept)
    axes.axhline(0.5, color=INK, lw=1, ls="--")  # of guessing
    axes.set_ylim(top=1.01)
    return figure


def roc_curves(result: MultiLabelResult, records: MultiLabelRecords) -> Figure:
    """Of each class that has one: true positive rate by false positive rate, and its area."""
    figure, axes = square("ROC", "share of the others that it takes, too", "share that it finds (recall)")
    axes.plot([0, 1], [0, 1], color=INK, lw=1, ls="--")
    curves = [(row["auroc"], *roc_curve(*records.known(i))[:2]) for i, row in _with_curves(result)]
    _by_class(axes, result, curves)
    return figure


def precision_recall_curves(result: MultiLabelResult, records: MultiLabelRecords) -> Figure:
    """Of each class that has one: precision by recall, and the average precision."""
    figure, axes = square("Precision and recall", "share that it finds (recall)", "share that is right (precision)")
    curves = [(row["ap"], *precision_recall_curve(*records.known(i))[1::-1]) for i, row in _with_curves(result)]
    _by_class(axes, result, curves, "steps-post")
    return figure


def mark(axes: Axes, x: float, y: float, label: str) -> None:
    """The point of a curve that the threshold gives."""
    axes.plot([x], [y], "o", color=VAL, mec="white", ms=9, label=label, zorder=5)


def _with_curves(result: MultiLabelResult) -> list[tuple[int, dict[str, Any]]]:
    return [(i, row) for i, row in enumerate(result.per_class) if row["auroc"] is not None]


def _by_class(
    axes: Axes, result: MultiLabelResult, curves: Sequence[tuple[float, Any, Any]], drawstyle: str = "default"
) -> None:
    """A line a class, named up to as many as colours can tell apart; `curves` are area, x, y."""
    many = len(curves) > len(_COLOURS)
    lines = []
    for (i, row), (area, x, y), colour in zip(_with_curves(result), curves, cycle(_COLOURS), strict=False):
        look: dict[str, Any] = {"color": TRAIN, "lw": 0.8, "alpha": 0.4} if many else {"color": colour, "lw": 1.8}
        (line,) = axes.plot(x, y, drawstyle=drawstyle, **look)
        lines.append((line, f"{area:.3f}  {_label(i, str(row['class']))}"))
    if lines and not many:
        handles, labels = zip(*lines, strict=True)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.16), "ncols": 2}
        legend = axes.legend(handles, labels, frameon=False, labelcolor=INK, fontsize=8.5, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a class may be called $x$


def confusion_matrix(result: SingleResult) -> Figure:
    """True classes down, answers across, each row in shares of its class: right answers blue, mistakes orange."""
    counts = np.array(result.confusion)
    n = len(counts)
    numbered = n <= MOST_NUMBERED
    labels = [_label(i, str(row["class"])) for i, row in enumerate(result.per_class)]
    # Cells of one size, and room for the longest name.
    side = 0.42 * n + 0.085 * max(map(len, labels)) + 0.9 if numbered else 6.5
    figure = Figure(figsize=(max(side, 3.6), max(side, 3.6)), layout="constrained")
    axes = figure.add_subplot()
    plain(axes)
    shades = _shades(counts)
    axes.imshow(shades, interpolation="nearest")
    axes.tick_params(length=0)
    axes.spines[:].set(visible=not numbered, color=FAINT)
    if numbered:
        # A class may be called $x$, which is not a formula.
        axes.set_xticks(range(n), labels, parse_math=False, rotation=0 if max(map(len, labels)) <= 3 else 90)
        axes.set_yticks(range(n), labels, parse_math=False)
        axes.set_xticks(np.arange(n - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(n - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=FAINT, lw=0.8)
        axes.tick_params(which="minor", length=0)
        dark = shades @ (0.299, 0.587, 0.114) < 0.42
        for i, j in np.argwhere(counts):
            axes.text(
                j, i, str(counts[i, j]), ha="center", va="center", size=9, color="white" if dark[i, j] else "black"
            )
    else:
        ticks = np.unique(np.linspace(0, n - 1, 11).round().astype(int))
        axes.set_xticks(ticks, [str(i + 1) for i in ticks])
        axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    unit = "" if numbered else " (number, as in the table)"
    axes.set_xlabel("what the model answered" + unit)
    axes.set_ylabel("what it is" + unit)
    return figure


def reliability_diagram(bins: Sequence[dict[str, float]], was: str = "was right", answers: str = "answers") -> Figure:
    """How often it was right against how sure it was, above how many answers each bar stands for."""
    figure = Figure(figsize=(5.4, 4.9), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.15))
    left = np.array([b["lower"] for b in bins])
    width = np.array([b["upper"] for b in bins]) - left
    counts = np.array([int(b["count"]) for b in bins])
    for axes in (upper, lower):
        plain(axes)
        axes.grid(axis="y", color=FAINT, lw=0.8)
    upper.bar(left, [b["accuracy"] for b in bins], width, align="edge", color=TRAIN, ec="white", label="this model")
    upper.plot([0, 1], [0, 1], color=INK, lw=1.5, ls="--", label="perfectly honest")
    upper.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o", color=VAL, mec="white", ms=6)
    upper.set_ylim(0, 1.05)
    upper.set_ylabel(was)
    # Above the axes: inside, bars may stand anywhere.
    upper.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, labelcolor=INK)
    lower.bar(left, counts, width, align="edge", color="#9aa7b4", ec="white")
    for x, count in zip(left + width / 2, counts, strict=True):
        lower.annotate(_short(count), (x, count), (0, 2), textcoords="offset points", ha="center", size=7.5, color=INK)
    lower.set_xlim(0, 1)
    lower.set_ylim(0, 1.25 * counts.max())
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    lower.set_ylabel(answers)
    lower.set_xlabel("how sure the model said it was")
    for axis in (upper.xaxis, upper.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as a file; the same figure drawn on another day gives no other metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as pixels, sharp enough for a page or a slide."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def titled(title: str) -> tuple[Figure, Axes]:
    """A figure of the size that stands in a report's row, with its title."""
    figure = Figure(figsize=(5.0, 3.3), layout="constrained")
    axes = figure.add_subplot()
    plain(axes)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    axes.set_title(title, loc="left", size=11, color=INK, weight="bold")
    return figure, axes


def square(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    """A figure of two shares, each from 0 to 1."""
    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    axes = figure.add_subplot()
    plain(axes)
    axes.grid(color=FAINT, lw=0.8)
    axes.set_title(title, loc="left", size=11, color=INK, weight="bold")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=across, ylabel=up)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure, axes


def plain(axes: Axes) -> None:
    """Axes in the reports' style: no box, quiet ticks."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa7b4")
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _curves(axes: Axes, rows: Sequence[dict[str, Any]], metric: str, kept: int | None) -> None:
    marker = "o" if len(rows) <= 20 else ""  # a line through one point cannot be seen
    for split, colour, label in (("train", TRAIN, "training"), ("val", VAL, "validation")):
        known = [(row["epoch"], row[f"{split}_{metric}"]) for row in rows if f"{split}_{metric}" in row]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, lw=2, marker=marker, ms=4.5, label=label)
    if kept is not None:
        axes.axvline(kept, color=INK, lw=1, ls=":", label=f"kept: epoch {kept}")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if len(rows) == 1:
        axes.set_xlim(0, 2)
        axes.set_xticks([1])
    axes.set_xlabel("epoch")
    if axes.lines:
        axes.legend(frameon=False, labelcolor=INK)


def _shades(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n, n) counts -> (n, n, 3) colours."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.eye(len(counts), dtype=bool)
    # The root makes one mistake in a hundred visible.
    strength = np.where(right, shares, np.sqrt(shares))[..., None]
    hue = np.where(right[..., None], to_rgb(TRAIN), to_rgb(VAL))
    return np.asarray(1 - strength * (1 - hue))


def _label(index: int, name: str) -> str:
    """A class on an axis: its name, or its number in the table if matplotlib's font lacks the letters."""
    if not all(ord(letter) in _letters() for letter in name):
        return f"#{index + 1}"
    return name if len(name) <= 18 else name[:17] + "…"


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))).get_charmap())


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"
