"""What a study found -> figures as files, and one HTML file that needs nothing else."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from matplotlib.figure import Figure

from densekit import atomic
from densekit.formatting import amount, duration
from densekit.report.pictures import template, uri
from densekit.report.plots import png, svg
from densekit.study import figures as draw
from densekit.study.definition import FILE
from densekit.study.results import Findings
from densekit.study.statistics import Comparison, Summary
from densekit.version import __version__


def write_study(folder: Path, found: Findings) -> None:
    """Writes report.html and figures/*.svg, *.png to `folder`, which has the study's study.yaml. Raises OSError."""
    (folder / "figures").mkdir(exist_ok=True)
    pictures = {}
    for name, figure in _figures(found):
        drawing = svg(figure)
        atomic.write(folder / "figures" / f"{name}.svg", drawing)
        atomic.write(folder / "figures" / f"{name}.png", png(figure))
        pictures[name] = uri("svg+xml", drawing)
    page = template("study.html").render(
        found=found,
        answer=list(answer(found)),
        figures=pictures,
        error=spread,
        points=_points,
        interval=_interval,
        p=_p,
        amount=lambda number: amount(number).strip(),
        duration=duration,
        same_epochs=len({arm.epochs for arm in found.arms}) == 1,
        budget=sum(row.seconds for row in found.runs),
        grid=(folder / FILE).read_text(encoding="utf-8"),
        version=__version__,
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )
    atomic.write(folder / "report.html", page.encode("utf-8", "replace"))


def _figures(found: Findings) -> Iterator[tuple[str, Figure]]:
    yield "errors", draw.errors_by_arm(found)
    if found.costs:
        yield "costs", draw.errors_by_cost(found)
    if found.axis is not None:
        yield "axis", draw.errors_by_axis(found)
    if any(arm.train_error is not None for arm in found.arms):
        yield "gaps", draw.gaps(found)
    if found.comparisons:
        yield "differences", draw.differences(found)


def answer(found: Findings) -> Iterator[str]:
    """What can be said in words, first the best arm, then what the comparisons told apart."""
    best = min(found.arms, key=lambda arm: arm.error.mean)
    yield f"Lowest mean error: {best.name}, {spread(best.error)}."
    told = [row for row in found.comparisons if row.verdict in ("lower", "higher")]
    for row in told:
        way = "less" if row.verdict == "lower" else "more"
        points = abs(100 * row.mean)
        yield f"{row.first} errs {points:.2f} percentage points {way} than {row.second} (corrected p {_p(row.p_holm)})."
    rest = len(found.comparisons) - len(told)
    if rest == 1:
        yield "The other comparison is not told apart." if told else "The two are not told apart by these runs."
    elif rest:
        yield f"{'The other' if told else 'The'} {rest} comparisons are not told apart by these runs."


def spread(summary: Summary | None) -> str:
    """Mean and standard deviation, in percent."""
    if summary is None:
        return "n/a"
    spread = f" ± {100 * summary.deviation:.2f}" if summary.deviation is not None else ""
    return f"{100 * summary.mean:.2f}{spread} %"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _interval(row: Comparison) -> str:
    if row.low is None or row.high is None:
        return "n/a"
    return f"{_points(row.low)} to {_points(row.high)}"


def _p(value: float | None) -> str:
    if value is None:
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
