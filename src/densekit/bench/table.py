"""A report as tables for a terminal, 80 columns wide."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from densekit.bench.workload import threads_of

_SHORT = {"channels_last": "NHWC", "contiguous": "NCHW"}


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """One for each batch size and number of threads."""
    size = "x".join(map(str, report["image"][1:]))
    for run in report["runs"]:
        title = f"{report['what']} {report['model']}, {size}, batch {run['batch']}, {threads_of(run['threads'])}"
        yield _memory(title, run) if report["what"] == "memory" else _times(title, run)


def notes(report: dict[str, Any]) -> str:
    """Why somebody was not measured, and what the columns mean."""
    absent = {row["name"]: row for run in report["runs"] for row in run["contenders"] if row["status"] != "measured"}
    reasons = [f"{name}: {row['status']} ({row['reason']})" for name, row in absent.items()]
    return "\n".join((*reasons, _legend(report)))


def _legend(report: dict[str, Any]) -> str:
    if report["what"] == "memory":
        return (
            "saved: what autograd keeps for backward. peak: resident memory of a step above what was there before. "
            "vs peer: over the most frugal peer's peak, so less is better. maps: the better of NHWC and NCHW."
        )
    return (
        "time: median ± half of what lies between the quartiles. vs peer: the fastest peer's time over this one, so "
        "more is faster. GFLOP/s count the published network for all; peak: their share of what the processor did at "
        "most in large products. diff: of logits from float64, relative. maps: the better of NHWC (channels_last) and "
        "NCHW."
    )


def time_text(seconds: float) -> str:
    """`2.21 s`, `34.8 ms`."""
    return f"{_figures(seconds)} s" if seconds >= 1 else f"{_figures(seconds * 1e3)} ms"


def memory_text(size: float) -> str:
    """`1,220 MB`."""
    return f"{size / 1e6:,.0f} MB" if size >= 10e6 else f"{size / 1e6:.1f} MB"


def _times(title: str, run: dict[str, Any]) -> Table:
    title += f"; peak {run['peak_flops'] / 1e9:.0f} GFLOP/s"
    table = _table(title, "maps", "time", "vs peer", "GFLOP/s", "peak", "diff")
    for row in run["contenders"]:
        if row["status"] != "measured":
            _absent(table, row)
            continue
        lower, upper = row["quartiles"]
        relative = row["relative_to_best_peer"]
        table.add_row(
            row["name"],
            _layout(row),
            f"{time_text(row['value'])} ±{(upper - lower) / 2 / row['value']:.0%}",
            "-" if relative is None else f"{1 / relative:.2f}x",
            f"{row['flops_per_second'] / 1e9:.1f}",
            f"{row['share_of_peak']:.0%}",
            f"{row['difference']['logits']:.0e}",
            style=_style(row),
        )
    return table


def _memory(title: str, run: dict[str, Any]) -> Table:
    table = _table(title, "maps", "saved/image", "peak", "vs peer")
    for row in run["contenders"]:
        if row["status"] != "measured":
            _absent(table, row)
            continue
        saved, relative = row["saved_bytes"], row["relative_to_best_peer"]
        table.add_row(
            row["name"],
            _layout(row),
            "-" if saved is None else f"{saved / run['batch'] / 1e6:.2f} MB",
            memory_text(row["value"]),
            "-" if relative is None else f"{relative:.2f}x",
            style=_style(row),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table("contender", title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column == "maps" else "right", no_wrap=True)
    return table


def _absent(table: Table, row: dict[str, Any]) -> None:
    table.add_row(row["name"], "", row["status"], style="dim")


def _layout(row: dict[str, Any]) -> str:
    return _SHORT[row["layout"]] if row["runtime"] in ("eager", "compile") else "graph"


def _style(row: dict[str, Any]) -> str:
    return "" if row["ours"] else "cyan"


def _figures(value: float) -> str:
    """Three of them."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
