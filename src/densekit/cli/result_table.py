"""What `evaluate` and `train` print of a result."""

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from densekit.formatting import percentage, printable
from densekit.metrics.multi_label import MultiLabelResult
from densekit.metrics.task import Result

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
        yield f"  positive: {escape(at)}; {escape('[95 % interval]')}"
    elif not isinstance(result, MultiLabelResult):
        if result.top1_interval is not None:
            yield f"  95 % interval of top-1{_interval(result.top1_interval, percent=True)}"
    else:
        yield f"  means of {len(result.per_class)} labels at their thresholds; 95 % intervals in brackets"
    names = [name for name in _BINARY if _shown(result, name)]
    width = max((len(_BINARY[name][0]) for name in names), default=0)
    for name in names:
        yield f"    {_BINARY[name][0]:<{width}}  {_of(result, name)}"
    for caution in result.cautions:
        yield f"[yellow]caution: {escape(printable(caution))}[/]"


def table_of(result: Result) -> Table:
    """A row a class."""
    several = isinstance(result, MultiLabelResult)
    areas, more = (("AUROC", "AP", "threshold"), ("specificity",)) if several else ((), ())
    table = Table("class", "images", *areas, "precision", "recall", *more, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in result.per_class:
        numbers = [_number(row[name]) for name in ("auroc", "ap", "threshold")] if several else []
        shares = [percentage(row[name]) for name in ("precision", "recall", *more)]
        table.add_row(Text(printable(str(row["class"]))), f"{row['count']:,}", *numbers, *shares)
    return table


def _headline(result: Result) -> str:
    if isinstance(result, MultiLabelResult):
        return f"[bold]AUROC {_of(result, 'auroc')}[/]"
    top5 = f"  top-5 {result.top5:.2%}" if len(result.per_class) > 5 else ""
    return f"[bold]top-1 {result.top1:.2%}[/]{top5}"


def _shown(result: Result, name: str) -> bool:
    """Binary metrics, of several labels their means, but for what the headline has."""
    several = isinstance(result, MultiLabelResult)
    return name != "auroc" if several else result.positive is not None


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
