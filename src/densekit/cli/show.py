"""What verbs print for people."""

import os
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from densekit.api import ExportedModel, ImportedModel, Run
from densekit.api.analysing import Analysed
from densekit.data.check import Check
from densekit.data.findings import Item
from densekit.engine import Result
from densekit.engine.multi_label import MultiLabelResult
from densekit.engine.progress import Log
from densekit.weights.foreign.account import listed
from densekit.words import counted


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


def print_import(done: ImportedModel, file: Path) -> None:
    """What became of a file's tensors, what is assumed, and what to do next."""
    out = Console(highlight=False)
    account, card = done.account, done.card
    size = "x".join(map(str, card.preprocessing.size))
    out.print(Text(f"{card.model.name} from {file}, named as by {done.layout}", style="bold"), soft_wrap=True)
    rows = [
        ("matched", len(account.matched), "bit for bit"),
        ("converted", len(account.converted), "; ".join(sorted(set(account.converted.values())))),
        ("set aside", len(account.aside), listed([f"{name}: {why}" for name, why in account.aside.items()])),
        ("made", len(account.made), "; ".join(sorted(set(account.made.values())))),
    ]
    for name, count, what in rows:
        if count:
            out.print(Text(f"  {name:<10}{count:>5}  {what}"), soft_wrap=True)
    out.print(
        f"  unmatched     0  input {card.preprocessing.channels}x{size}, {len(card.classes):,} classes", soft_wrap=True
    )
    for note in done.notes:
        out.print(Text(f"  {note}"), soft_wrap=True)
    if card.classes:
        out.print(
            f"{done.folder} is a model now: densekit predict {done.folder} picture.jpg", soft_wrap=True, markup=False
        )
    else:
        out.print(f"start from it: densekit train DATA --init {done.folder}", soft_wrap=True, markup=False)


def print_analysis(done: Analysed) -> None:
    """The paper's four observations with their verdicts, the connections nobody misses, and where the page is."""
    out = Console(highlight=False)
    found = done.found
    for seen in found.observations["weight"]:
        spread = "" if seen.deviation is None else f" ± {seen.deviation:.2f} over {len(seen.values)} networks"
        out.print(f"{seen.verdict:<14}{seen.says}", soft_wrap=True, markup=False)
        out.print(f"{'':<14}{seen.mean:.2f}{spread}: {seen.number}", soft_wrap=True, markup=False, style="dim")
    if found.edges is not None:
        count = counted(len(found.edges.ranking), "connection")
        out.print(f"{found.edges.missed:,} of {count} are missed for certain, cut one at a time", soft_wrap=True)
    typer.echo(f"report: {done.report}")


def print_export(done: ExportedModel) -> None:
    """What was written, how it was proved, and what to do next."""
    out = Console(highlight=False)
    report = done.report
    takes = "bytes (N, H, W, C)" if report["preprocessing"] == "inside" else "normalised float32 (N, C, H, W)"
    out.print(Text(f"{report['model']} takes {takes}; compared on {report['images']}", style="bold"), soft_wrap=True)
    for row in report["files"]:
        path = done.files[row["format"]]
        out.print(f"  {row['format']:<9}{path}  {row['bytes'] / 1e6:,.2f} MB", soft_wrap=True, markup=False)
        out.print(f"           {_measured(row) if 'int8' in row else _proof(row)}", soft_wrap=True, markup=False)
        for race in row.get("speed", ()):
            before, after = race["milliseconds"]["float32"], race["milliseconds"]["int8"]
            out.print(
                f"           {race['runtime']}, batch {race['batch']}: {after:.2f} ms, float32 {before:.2f} ms: "
                f"{before / after:.2f} times as fast",
                soft_wrap=True,
            )
    out.print(f"all of it: {done.folder / 'parity.json'}", soft_wrap=True, markup=False)
    first = next(iter(done.files.values()))
    out.print(f"try it: densekit predict {first} picture.jpg", soft_wrap=True, markup=False)


def _proof(row: dict[str, Any]) -> str:
    batches = row["batches"]
    error, own, allowed = (max(batch[key] for batch in batches) for key in ("error", "torch_error", "allowed"))
    same, images = sum(batch["same_top1"] for batch in batches), sum(batch["batch"] for batch in batches)
    sizes = ", ".join(str(batch["batch"]) for batch in batches)
    return (
        f"{row['runtime']}, batches {sizes}: within {error:.0e} of float64 (torch {own:.0e}, allowed {allowed:.0e}), "
        f"same class for {same} of {images}"
    )


def _measured(row: dict[str, Any]) -> str:
    found = row["int8"]
    if "auroc_after" in found:
        changed = f"{found['decisions_changed']:,} of {counted(found['decisions'], 'decision')} changed"
        return f"mean AUROC {found['auroc_after']:.4f}, in float32 {found['auroc_before']:.4f}; {changed}"
    return f"top-1 {found['top1_after']:.2%}, in float32 {found['top1_before']:.2%}"


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


_EXAMPLES = 3


def print_check(found: Check) -> None:
    """What `data check` found: a line a kind of fault, with what to do about it and some examples."""
    out = Console(highlight=False)
    sizes = ", ".join(
        f"{count:,} {split}" for split, count in zip(found.survey.splits, found.counts.sum(1), strict=True)
    )
    out.print(f"{found.data.name}: {sizes}; {len(found.data.classes):,} classes", soft_wrap=True, markup=False)
    for finding in found.findings:
        style = "bold red" if finding.level == "error" else "yellow"
        out.print(Text(f"{finding.level:<8}", style=style) + Text(finding.message), soft_wrap=True)
        for item in finding.items[:_EXAMPLES]:
            if item.rows or item.path:
                out.print(Text(f"          {_item(item, found)}", style="dim"), soft_wrap=True)
        out.print(f"        - {finding.fix}", soft_wrap=True, markup=False)
    errors = sum(finding.level == "error" for finding in found.findings)
    verdict = f"{errors} kinds of error" if errors > 1 else "one kind of error" if errors else "no error"
    out.print(Text(f"{verdict}: {'mend it before training' if errors else 'fit for training'}", style="bold"))


def _item(item: Item, found: Check) -> str:
    seen = found.survey
    named = [f"{seen.splits[seen.split[row]]}: {seen.names[row]} ({seen.label(row)})" for row in item.rows[:4]]
    more = [f"{len(item.rows) - 4:,} more"] if len(item.rows) > 4 else []
    return "; ".join([*([item.path] if item.path else []), *named, *more, *([item.note] if item.note else [])])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
