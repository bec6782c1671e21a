"""The reports of a folder as one picture: bars, each work relative to the best peer."""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from densekit.bench.table import memory_text, time_text
from densekit.bench.workload import KINDS
from densekit.errors import BadData
from densekit.report.plots import FAINT, INK, svg

OURS, PEERS = "#0072B2", "#9aa7b4"
_CLEAR = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none"}  # the line at 1 passes behind numbers
_ELSEWHERE = ("loader", "serve")  # reports that stand in the same folder, of other things than networks
_WORK = {"train": "training", "infer": "inference", "memory": "training memory"}


def write_chart(folder: Path, out: Path | None = None, threads: int | None = None) -> list[Path]:
    """Draws `chart.svg` and `chart.png` into `out`, or `folder` itself; returns their paths.

    `threads` chooses among runs, by default the most. Raises BadData where there is no report, or a damaged one.
    """
    figure = chart(read_reports(folder), threads)
    out = out or folder
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "chart.svg").write_bytes(svg(figure))
        figure.savefig(out / "chart.png", dpi=120, metadata={"Software": None})
    except OSError as error:
        raise BadData(f"cannot write the chart to {out}: {error.strerror}; name another --out") from error
    return [out / "chart.svg", out / "chart.png"]


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """The reports that `densekit bench` has written there, in the order of KINDS."""
    reports = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = json.loads(path.read_text())
            if report["what"] in _ELSEWHERE:
                continue
            assert report["what"] in KINDS
            assert report["runs"]
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            raise BadData(f"{path} is no report of densekit bench; remove it, or measure again") from error
        reports.append(report)
    if not reports:
        raise BadData(f"no reports in {folder}; measure first: densekit bench --out {folder}")
    return sorted(reports, key=lambda report: (KINDS.index(report["what"]), report["model"]))


def chart(reports: list[dict[str, Any]], threads: int | None = None) -> Figure:
    """A column for each model, and panels for its work."""
    models = sorted({report["model"] for report in reports}, key=lambda name: ("bc" not in name, name))
    columns = [[panel for r in reports if r["model"] == model for panel in _panels(r, threads)] for model in models]
    rows = max(len(column) for column in columns)
    bars = max(len(_measured(run)) for column in columns for _, run in column)
    figure = Figure(figsize=(6.0 * len(models), rows * (0.75 + 0.24 * bars)), layout="constrained")
    grid = figure.subplots(rows, len(models), squeeze=False)
    for i, column in enumerate(columns):
        for j in range(rows):
            if j < len(column):
                _draw(grid[j, i], *column[j])
            else:
                grid[j, i].set_visible(False)
    figure.supxlabel("relative to the best peer, which is at the line; shorter is better", fontsize=9, color=INK)
    return figure


def _panels(report: dict[str, Any], threads: int | None) -> list[tuple[str, dict[str, Any]]]:
    """(title, run) of each batch size."""
    counts = [run["threads"] for run in report["runs"]]
    wanted = max(counts) if threads is None or report["what"] == "memory" else threads
    chosen = [run for run in report["runs"] if run["threads"] == wanted and _measured(run)]
    if not chosen:
        known = ", ".join(map(str, sorted(set(counts))))
        raise BadData(f"no run of {report['what']} {report['model']} with {wanted} threads; there are {known}")
    return [(_title(report, run), run) for run in sorted(chosen, key=lambda run: -run["batch"])]


def _title(report: dict[str, Any], run: dict[str, Any]) -> str:
    threads = "" if report["what"] == "memory" else f", {run['threads']} thread{'s' * (run['threads'] > 1)}"
    return f"{report['model']}: {_WORK[report['what']]}, batch {run['batch']}{threads}"


def _measured(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in run["contenders"] if row["status"] == "measured"]


def _draw(axes: Axes, title: str, run: dict[str, Any]) -> None:
    rows = _measured(run)
    base = min((row["value"] for row in rows if not row["ours"]), default=max(row["value"] for row in rows))
    lengths = [row["value"] / base for row in rows]
    axes.barh(range(len(rows)), lengths, height=0.72, color=[OURS if row["ours"] else PEERS for row in rows])
    for y, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if "quartiles" in row:
            axes.plot([q / base for q in row["quartiles"]], [y, y], color=INK, lw=1.2, solid_capstyle="butt")
        amount = time_text(row["value"]) if "quartiles" in row else memory_text(row["value"])
        right = max(length, row.get("quartiles", [0])[-1] / base)
        axes.annotate(
            f"{length:.2f}   {amount}",
            (right, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            size=8,
            color=INK,
            bbox=_CLEAR,
        )
    axes.axvline(1, color=INK, lw=0.8, ls=":")
    axes.set_xlim(0, 1.35 * max(*lengths, 1))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.set_title(title, loc="left", size=9.5, color=INK, weight="bold")
