"""What `evaluate` and `train` print of a result."""

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from densekit.engine import Result
from densekit.engine.multi_label import MultiLabelResult
from densekit.words import printable

# Field -> its name for people, and whether it is a percentage.
_BINARY = {
    "auroc": ("AUROC", False),
    "average_precision": ("average precision", False),
    "sensitivity": ("sensitivity", True),
    "specificity": ("specificity", True),
    "precision": ("precision", True),
    "f1": ("F1", False),
    "accuracy": ("accuracy", True),
    "balanced_accuracy": ("balanced accuracy", True),
}


def lines(result: Result) -> Iterator[str]:
    """Headline metrics with their intervals, then those of a binary task, and cautions; as rich's markup."""
    yield f"  {_headline(result)}  loss {result.loss:.4f}  calibration error {result.ece:.2%}"
    if result.positive is not None:
        at = f"{printable(result.positive)} from a probability of {result.threshold:.4g} on"
        yield f"  positive: {escape(at)}; 95 % intervals in brackets"
    names = [name for name in _BINARY if _shown(result, name)]
    width = max((len(_BINARY[name][0]) for name in names), default=0)
    for name in names:
        yield f"    {_BINARY[name][0]:<{width}}  {_of(result, name)}"
    for caution in result.cautions:
        yield f"[yellow]caution: {escape(printable(caution))}[/]"


def table_of(result: Result) -> Table:
    """A row a class."""
    several = isinstance(result, MultiLabelResult)
    areas = ("AUROC", "AP") if several else ()
    table = Table("class", "images", *areas, "precision", "recall", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in result.per_class:
        numbers = (_number(row["auroc"]), _number(row["ap"])) if several else ()
        shares = (_share(row["precision"]), _share(row["recall"]))
        table.add_row(Text(printable(str(row["class"]))), f"{row['count']:,}", *numbers, *shares)
    return table


def _headline(result: Result) -> str:
    if isinstance(result, MultiLabelResult):
        if result.positive is not None:
            return f"[bold]AUROC {_of(result, 'auroc')}[/]"
        means = f"[bold]AUROC {_of(result, 'auroc')}[/]  average precision {_of(result, 'average_precision')}"
        return f"means of {len(result.per_class)} labels: {means}"
    top5 = f"  top-5 {result.top5:.2%}" if len(result.per_class) > 5 else ""
    return f"[bold]top-1 {result.top1:.2%}{_interval(result.top1_interval, percent=True)}[/]{top5}"


def _shown(result: Result, name: str) -> bool:
    """Binary metrics, but for what the headline has."""
    return result.positive is not None and not (name == "auroc" and isinstance(result, MultiLabelResult))


def _of(result: Result, name: str) -> str:
    value, percent = getattr(result, name), _BINARY[name][1]
    shown = "-" if value is None else f"{value:.2%}" if percent else f"{value:.4f}"
    return shown + _interval(getattr(result, f"{name}_interval"), percent=percent)


def _interval(interval: Any, *, percent: bool) -> str:
    if interval is None:
        return ""
    low, high = interval
    return escape(f" [{low:.1%}, {high:.1%}]" if percent else f" [{low:.3f}, {high:.3f}]")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
