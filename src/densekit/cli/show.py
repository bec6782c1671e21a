"""What verbs print for people."""

from rich.console import Console
from rich.table import Table

from densekit.engine import Result


def console() -> Console:
    """Progress and plans go to standard error; standard output is for results."""
    return Console(stderr=True, highlight=False)


def print_result(result: Result, *, per_class: bool = False) -> None:
    """Headline metrics, and optionally a row a class."""
    out = Console(highlight=False)
    top5 = f"  top-5 {result.top5:.2%}" if len(result.per_class) > 5 else ""
    out.print(
        f"{result.split} of {result.data}, {result.count:,} images, {result.seconds:.1f} s",
        soft_wrap=True,
        markup=False,
    )
    out.print(
        f"  [bold]top-1 {result.top1:.2%}[/]{top5}  loss {result.loss:.4f}  calibration error {result.ece:.2%}",
        soft_wrap=True,
    )
    for skipped in result.skipped:
        out.print(f"skipped: {skipped['message']}", soft_wrap=True, markup=False)
    if per_class:
        table = Table("class", "images", "precision", "recall", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in result.per_class:
            table.add_row(str(row["class"]), f"{row['count']:,}", _share(row["precision"]), _share(row["recall"]))
        out.print(table)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
