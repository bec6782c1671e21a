"""The figure of a learning-rate range test."""

from pathlib import Path

from matplotlib.figure import Figure

from densekit import atomic
from densekit.errors import BadData, InvalidInput
from densekit.report import plots
from densekit.training.lr_range_test import RateCurve

_WRITERS = {".svg": plots.svg, ".png": plots.png}


def lr_figure(curve: RateCurve) -> Figure:
    """Loss by learning rate on a logarithmic axis, with the suggestion and where the loss is lowest."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    plots.plain(axes)
    axes.grid(axis="y", color=plots.FAINT, lw=0.8)
    axes.set_title(
        f"{curve.model} on {curve.data}, batch {curve.batch_size}",
        loc="left", size=11, color=plots.INK, weight="bold", parse_math=False,
    )  # fmt: skip
    axes.plot(curve.rates, curve.losses, color="#9aa7b4", lw=0.8, label="loss of a step")
    axes.plot(curve.rates, curve.smoothed, color=plots.TRAIN, lw=2, label="smoothed")
    axes.axvline(curve.lowest, color=plots.INK, lw=1, ls=":", label=f"lowest: {curve.lowest:.2g}")
    if curve.steepest is not None:
        axes.axvline(curve.steepest, color=plots.RATE, lw=1, ls="--", label=f"steepest fall: {curve.steepest:.2g}")
    if curve.suggestion is not None:
        axes.axvline(curve.suggestion, color=plots.VAL, lw=2, label=f"suggestion: {curve.suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0, top=1.25 * max(curve.smoothed))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend(frameon=False, labelcolor=plots.INK, fontsize=8.5, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def check_figure_path(path: Path) -> None:
    """Raises InvalidInput where no figure can be written by that name."""
    if path.suffix.lower() not in _WRITERS:
        raise InvalidInput(f"--out {path} is neither .svg nor .png; name the figure, such as lr.svg")
    if not path.parent.is_dir():
        raise InvalidInput(f"--out {path}: there is no folder {path.parent}; make it, or name another")


def write_lr_figure(curve: RateCurve, path: Path) -> None:
    """Writes the figure, as the suffix of `path` says. Raises BadData where that cannot be written."""
    try:
        atomic.write(path, _WRITERS[path.suffix.lower()](lr_figure(curve)))
    except OSError as error:
        raise BadData(f"cannot write {path}: {error.strerror}; name another --out") from error
