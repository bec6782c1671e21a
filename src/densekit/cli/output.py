"""What verbs print for people."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from densekit.analysis.analyse import Analysed
from densekit.api import ExportedModel, ImportedModel, Reproduced, Run, Studied
from densekit.data_check.inspection import Check
from densekit.data_check.issues import Item
from densekit.formatting import counted, listed, printable
from densekit.metrics.task import Result, no_better
from densekit.study.ledger import BASIS, Cell
from densekit.study.report_page import answer, spread
from densekit.terminal import Log


def console() -> Console:
    """Progress and plans go to standard error; standard output is for results."""
    return Log()


def is_main() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def print_run(run: Run) -> None:
    """What a run achieved, and where its report is."""
    if is_main():
        print_result(run.result)
        typer.echo(f"report: {run.report}")


def print_result(result: Result, *, per_class: bool = False) -> None:
    """Headline metrics, and optionally a row a class."""
    from densekit.cli.result_table import lines, table_of

    out = Console(highlight=False)
    out.print(
        f"{result.split} of {result.data}, {result.count:,} images, {result.seconds:.1f} s",
        soft_wrap=True,
        markup=False,
    )
    for line in lines(result):
        out.print(line, soft_wrap=True)
    if (warning := no_better(result)) is not None:
        out.print(Text(f"  {printable(warning)}", style="yellow"), soft_wrap=True)
    for skipped in result.skipped:
        out.print(f"skipped: {skipped['message']}", soft_wrap=True, markup=False)
    if per_class:
        out.print(table_of(result))


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
    sizes = ", ".join(f"{count:,} {split}" for split, count in found.scan.images().items())
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


def print_study(done: Studied) -> None:
    """A row an arm, what that says, and where the page is."""
    found, out = done.found, Console(highlight=False)
    assert found is not None
    table = Table("arm", "parameters", "MACs", "seeds", "error", "training", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for arm in found.arms:
        numbers = (f"{arm.parameters:,}", f"{arm.macs / 1e6:,.1f} M", str(arm.error.count))
        table.add_row(arm.name, *numbers, spread(arm.error), spread(arm.train_error))
    out.print(table)
    for line in (*found.cautions, *answer(found)):
        out.print(line, soft_wrap=True, markup=False)
    out.print(f"report: {done.report}", soft_wrap=True, markup=False)


def print_ledger(cells: Sequence[Cell]) -> None:
    """A line a number of the paper, its facts below where there is only one."""
    out = Console(highlight=False)
    if len(cells) == 1:
        _print_cell(cells[0], out)
        return
    typer.echo(f"{'number':<42}{'source':<26}{'claimed':>8}{'measured':>16}{'GPU hours':>11}  deviations")
    for cell in cells:
        claimed = f"{cell.claimed:.2f}" if cell.claimed is not None else "-"
        hours = cell.gpu_hours()
        cost = f"{hours:,.0f}" if hours is not None and hours >= 10 else f"{hours:.1f}" if hours is not None else "-"
        named = str(len(cell.deviations)) if cell.unrunnable is None else "cannot be run"
        typer.echo(f"{cell.id:<42}{cell.source:<26}{claimed:>8}{_of_cell(cell):>16}{cost:>11}  {named}")
    typer.echo(
        "top-1 errors in percent; GPU hours of one seed, estimated, never measured; `--list TARGET` has the details"
    )


def _print_cell(cell: Cell, out: Console) -> None:
    hours = cell.gpu_hours()
    rows = {
        "source": f"Huang et al. 2017, {cell.source}" if cell.source.startswith(("table", "fig")) else cell.source,
        "what": cell.title,
        "claimed": f"{cell.claimed:.2f} % top-1 error" if cell.claimed is not None else f"no number: {cell.unclaimed}",
        "measured": f"{_of_cell(cell)} % ({cell.measured.evidence})" if cell.measured else "not yet",
        "run it": cell.command or f"cannot be run: {cell.unrunnable}",
        "cost": f"{hours:,.1f} GPU hours a seed ({BASIS})" if hours is not None else cell.cost_basis(),
    }
    if cell.recipe_name is not None and cell.unrunnable is None:
        rows["recipe"] = f"densekit train {cell.data} --recipe {cell.recipe_name} --model {cell.model}"
    out.print(Text(cell.id, style="bold"))
    for name, value in rows.items():
        out.print(Text(f"  {name:<11}{value}"), soft_wrap=True)
    for deviation in cell.deviations or ("none known",):
        out.print(Text(f"  {'deviation':<11}{' '.join(deviation.split())}"), soft_wrap=True)


def _of_cell(cell: Cell) -> str:
    if cell.measured is None:
        return "-"
    deviation = f" ± {cell.measured.deviation:.2f}" if cell.measured.deviation is not None else ""
    return f"{cell.measured.mean:.2f}{deviation}"


def print_reproduced(done: Reproduced) -> None:
    """What came out beside what the paper says."""
    out, document = Console(highlight=False), done.document
    deviation = f" ± {document['deviation']:.2f}" if document["deviation"] is not None else ""
    seeds = counted(len(document["seeds"]), "seed")
    out.print(f"{done.cell.id}: [bold]{document['mean']:.2f}{deviation} %[/] top-1 error, {seeds}", soft_wrap=True)
    if document["difference"] is not None:
        out.print(
            f"  the paper: {document['claimed']:.2f} %, a difference of {document['difference']:+.2f}", soft_wrap=True
        )
    if not document["complete"]:
        why = "; ".join([*document["changes"], *(f"no {run}" for run in document["missing"])])
        out.print(Text(f"  not a reproduction, as the recipe is not the whole one: {why}"), soft_wrap=True)
    out.print(f"evidence: {done.evidence}", soft_wrap=True, markup=False)


def _item(item: Item, found: Check) -> str:
    seen = found.scan
    named = [f"{seen.splits[seen.split[row]]}: {seen.names[row]} ({seen.label(row)})" for row in item.rows[:4]]
    more = [f"{len(item.rows) - 4:,} more"] if len(item.rows) > 4 else []
    told = [*([item.path] if item.path else []), *named, *more, *([item.note] if item.note else [])]
    return printable("; ".join(told))
