"""What verbs print for people."""

import os
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from densekit.api import Run
from densekit.engine import Result
from densekit.engine.multi_label import MultiLabelResult
from densekit.engine.progress import Log


def console() -> Console:
    """Progress and plans go to standard error; standard output is for results."""
    return Log()


def leads() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def print_run(run: Run) -> None:
    """What a run achieved, and where its report is."""
    if leads():
        print_result(run.result)
        typer.echo(f"report: {run.report}")


def print_result(result: Result, *, per_class: bool = False) -> None:
    """Headline metrics, and optionally a row a class."""
    out = Console(highlight=False)
    out.print(
        f"{result.split} of {result.data}, {result.count:,} images, {result.seconds:.1f} s",
        soft_wrap=True,
        markup=False,
    )
    if isinstance(result, MultiLabelResult):
        best = f"[bold]AUROC {_number(result.auroc)}[/]  average precision {_number(result.ap)}"
    else:
        top5 = f"  top-5 {result.top5:.2%}" if len(result.per_class) > 5 else ""
        best = f"[bold]top-1 {result.top1:.2%}[/]{top5}"
    out.print(f"  {best}  loss {result.loss:.4f}  calibration error {result.ece:.2%}", soft_wrap=True)
    for skipped in result.skipped:
        out.print(f"skipped: {skipped['message']}", soft_wrap=True, markup=False)
    if per_class:
        several = isinstance(result, MultiLabelResult)
        areas = ("AUROC", "AP") if several else ()
        table = Table("class", "images", *areas, "precision", "recall", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in result.per_class:
            numbers = (_number(row["auroc"]), _number(row["ap"])) if several else ()
            shares = (_share(row["precision"]), _share(row["recall"]))
            table.add_row(Text(str(row["class"])), f"{row['count']:,}", *numbers, *shares)
        out.print(table)


def print_examination(found: dict[str, Any]) -> None:
    """What `doctor` found, a line a fact."""
    out = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    devices = ", ".join(found["cuda"]) or "none"
    room = f"{found['free_bytes'] / 1e9:.1f} GB free"
    cores = f"{found['processor']}, {found['cores']} cores, {found['cpu_capability']}"
    rows = {
        "densekit": f"{found['densekit']}, Python {found['python']}",
        "torch": f"{found['torch']}, torchvision {found['torchvision']}",
        "system": found["platform"],
        "processor": f"{cores}, {found['memory_bytes'] / 2**30:.1f} GiB memory",
        "CUDA": devices,
        "kernels": found["kernels"],
        "data": f"{found['data_folder']}: {', '.join(found['data']) or 'empty'}; {room}",
        "extras": ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in found["extras"].items()),
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    for check in found["checks"]:
        verdict = Text("ok" if check["passed"] else "WRONG", style="green" if check["passed"] else "bold red")
        table.add_row(f"check {check['name']}", verdict + Text(f"  {check['found']}"))
    out.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
