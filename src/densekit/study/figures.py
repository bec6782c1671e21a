"""The figures of a study. Points are runs, larger marks means, bars one standard deviation over seeds.

Colours are Okabe and Ito's, and every series has a marker and a line of its own: told apart with any colour vision.
"""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from densekit.analysis.figures import GREEN, PURPLE, layout, legend
from densekit.report.plots import FAINT, INK, TRAIN, VAL, plain
from densekit.study.results import ArmFindings, Findings

_LOOKS = (
    (TRAIN, "o", "-"), (VAL, "s", "--"), (GREEN, "^", "-."),
    (PURPLE, "D", ":"), ("#56B4E9", "v", "-"), ("#E69F00", "P", "--"),
)  # fmt: skip
_TITLE = {"size": 11, "color": INK, "weight": "bold"}


def looks(found: Findings) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line of each series; where each arm is its own series, all look alike."""
    series = list(dict.fromkeys(arm.series for arm in found.arms))
    if len(series) == len(found.arms):
        return dict.fromkeys(series, _LOOKS[0])
    return {name: _LOOKS[i % len(_LOOKS)] for i, name in enumerate(series)}


def errors_by_arm(found: Findings) -> Figure:
    """A line an arm: its runs, their mean and spread."""
    figure = Figure(figsize=(7.2, 1.0 + 0.42 * len(found.arms)), layout=layout())
    axes = figure.add_subplot()
    plain(axes)
    axes.grid(axis="x", color=FAINT, lw=0.8)
    style = looks(found)
    for y, arm in enumerate(found.arms):
        colour, marker, _ = style[arm.series]
        runs = [row.error for row in found.runs if row.arm == arm.name]
        axes.plot(runs, [y] * len(runs), ls="", marker="|", ms=11, mew=1.4, color="#66727e")
        axes.errorbar(
            arm.error.mean, y, xerr=arm.error.deviation or 0, color=colour, marker=marker, ms=7, lw=1.8, capsize=4
        )
    axes.set_yticks(range(len(found.arms)), [arm.name for arm in found.arms])
    axes.set_ylim(len(found.arms) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_xlabel(_error(found))
    return figure


def errors_by_cost(found: Findings) -> Figure:
    """Error against parameters and against MACs: the paper's figures 3 and 4."""
    figure = Figure(figsize=(9.4, 4.2), layout=layout())
    left, right = figure.subplots(1, 2, sharey=True)
    _series(left, found, lambda arm: arm.parameters)
    _series(right, found, lambda arm: arm.macs)
    left.set_xlabel("parameters")
    right.set_xlabel("multiply-accumulates (MACs) of one image")
    left.set_ylabel(_error(found))
    for axes in (left, right):
        _logarithmic(axes)
    legend(figure, left)
    return figure


def errors_by_axis(found: Findings) -> Figure:
    """Error against what the grid varies; where it was recorded, the training error below it."""
    figure = Figure(figsize=(7.2, 4.4), layout=layout())
    axes = figure.add_subplot()
    _series(axes, found, lambda arm: arm.at or 0.0)
    positions = sorted({arm.at for arm in found.arms if arm.at})
    if len(positions) > 1 and positions[-1] / positions[0] >= 8:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())  # a label of 10³ would lie on that of 1,024
    axes.set_xticks(positions, [f"{at:,.6g}" for at in positions])
    axes.set_xlabel(found.axis or "")
    axes.set_ylabel(_error(found))
    legend(figure, axes)
    return figure


def gaps(found: Findings) -> Figure:
    """How much lower the training error is, of each arm: what people call overfitting."""
    figure = Figure(figsize=(7.2, 1.2 + 0.42 * len(found.arms)), layout=layout())
    axes = figure.add_subplot()
    plain(axes)
    axes.grid(axis="x", color=FAINT, lw=0.8)
    for y, arm in enumerate(found.arms):
        if arm.train_error is None:
            continue
        axes.plot(
            [arm.train_error.mean, arm.error.mean], [y, y], color="#9aa7b4", lw=3, solid_capstyle="butt", zorder=1
        )
        axes.plot(arm.train_error.mean, y, color=TRAIN, marker="o", ms=7, ls="", label="training" if not y else None)
        axes.plot(arm.error.mean, y, color=VAL, marker="s", ms=7, ls="", label=found.split if not y else None)
    axes.set_yticks(range(len(found.arms)), [arm.name for arm in found.arms])
    axes.set_ylim(len(found.arms) - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_xlabel("error, mean over seeds")
    legend(figure, axes)
    return figure


def differences(found: Findings) -> Figure:
    """Each comparison's mean difference with its interval; the line at 0 is no difference."""
    rows = found.comparisons
    figure = Figure(figsize=(7.6, 1.2 + 0.42 * len(rows)), layout=layout())
    axes = figure.add_subplot()
    plain(axes)
    axes.grid(axis="x", color=FAINT, lw=0.8)
    for y, row in enumerate(rows):
        axes.plot(row.differences, [y] * len(row.differences), ls="", marker="|", ms=9, mew=1.2, color="#66727e")
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [y, y], color=TRAIN, lw=1.8)
        told = row.verdict in ("lower", "higher")
        axes.plot(row.mean, y, marker="o", ms=7, color=TRAIN, mfc=TRAIN if told else "white", ls="")
    axes.axvline(0, color=INK, lw=1)
    axes.set_yticks(range(len(rows)), [f"{row.first} less {row.second}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:+.4g}" if abs(x) > 1e-9 else "0"))
    axes.set_xlabel("difference of error, percentage points (left of 0: the first errs less)")
    return figure


def _series(axes: Axes, found: Findings, at: Callable[[ArmFindings], float]) -> None:
    plain(axes)
    axes.grid(color=FAINT, lw=0.8)
    for name, (colour, marker, line) in looks(found).items():
        arms: Sequence[ArmFindings] = sorted((arm for arm in found.arms if arm.series == name), key=at)
        axes.errorbar(
            [at(arm) for arm in arms],
            [arm.error.mean for arm in arms],
            yerr=[arm.error.deviation or 0 for arm in arms],
            color=colour,
            marker=marker,
            ls=line,
            ms=6.5,
            lw=1.8,
            capsize=4,
            label=name,
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=[1, 2, 5]))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _tick(number: float, _: object) -> str:
    """50 k, 100 k, 2 M."""
    factor, unit = next(((f, u) for f, u in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if number >= f), (1.0, ""))
    return f"{number / factor:g}{unit}"


def _error(found: Findings) -> str:
    return f"error on {found.images:,} {found.split} images"
