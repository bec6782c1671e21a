"""densekit bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, Json
from densekit.errors import InvalidInput, UnknownName

if TYPE_CHECKING:
    from densekit.bench.suite import BenchSettings


def bench(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="train|infer|memory|accuracy|loader|serve|chart",
            help="What to measure. Default: train, infer and memory. accuracy: training compared with torchvision. "
            "loader: reading photographs, compared with torchvision. serve: HTTP, compared with FastAPI and LitServe. "
            "chart: draw the results.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder of the results to draw. Default: results/bench.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to measure; can be repeated. Default: densenet_bc_100_12 and densenet121."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per batch. Default: depends on the model.")] = None,
    threads: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Numbers of threads. Default: one, and all. loader: number of workers."),
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Rounds; each library is measured once per round.")] = None,
    plans: Annotated[
        str | None, typer.Option(metavar="PLAN,...", help="Plans of densekit to measure. Default: all that apply.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="accuracy: number of epochs. Default: 4.")] = None,
    data_dir: DataDir = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also measure torch.compile, which takes minutes.")
    ] = False,
    as_json: Json = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the results. Default: results/bench.")] = None,
) -> None:
    """Compare the speed and memory of execution plans, libraries and runtimes."""
    from densekit.bench.chart import write_chart
    from densekit.bench.suite import FOLDER, BenchSettings
    from densekit.bench.workload import KINDS, MODELS

    counts = _numbers("--threads", threads)
    if what == "chart":
        for path in write_chart(folder or FOLDER, out, counts[-1] if counts else None):
            typer.echo(path)
        return
    if what == "accuracy":
        _race(model, counts, epochs, data_dir, out, as_json=as_json)
        return
    if what == "loader":
        _load(batch, counts, repeats, out, as_json=as_json)
        return
    if what == "serve":
        _serve(model, repeats, out, as_json=as_json)
        return
    if epochs is not None or data_dir is not None:
        raise InvalidInput("--epochs and --data-dir are for: densekit bench accuracy")
    if folder is not None:
        raise InvalidInput(f"{folder} is one argument too many; only chart takes a folder, otherwise: --out {folder}")
    if what not in (None, *KINDS):
        raise UnknownName("benchmark", str(what), (*KINDS, "accuracy", "loader", "serve", "chart"))
    settings = BenchSettings(
        kinds=tuple(kind for kind in KINDS if what in (None, kind)),
        models=tuple(model) if model else MODELS,
        batch=batch,
        threads=counts,
        rounds=repeats,
        plans=tuple(plans.split(",")) if plans else (),
        compiled=compiled,
        out=out or FOLDER,
    )
    _compare(settings, as_json=as_json)


def _compare(settings: "BenchSettings", *, as_json: bool) -> None:
    """Runs the benchmarks and shows each as soon as it is done."""
    from rich.console import Console

    from densekit.bench.suite import benchmark
    from densekit.bench.table import notes, tables
    from densekit.cli.output import console

    progress, people = console(), Console(highlight=False)
    reports = []
    for report in benchmark(settings, lambda text: progress.print(text, markup=False, soft_wrap=True, style="dim")):
        reports.append(report)
        if not as_json:
            for table in tables(report):
                people.print(table, "")
            people.print(notes(report), "", style="dim", markup=False)
    if as_json:
        typer.echo(strict_json.dumps(reports))
    else:
        typer.echo(f"written to {settings.out}; draw it: densekit bench chart {settings.out}")


def _race(
    model: list[str] | None,
    threads: tuple[int, ...],
    epochs: int | None,
    data_dir: Path | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    from densekit.bench.time_to_accuracy import FILE, AccuracySettings, milestones, time_to_accuracy
    from densekit.cli.output import console
    from densekit.folders import data_folder
    from densekit.formatting import duration

    default = AccuracySettings()
    course = AccuracySettings(
        model=model[-1] if model else default.model,
        epochs=epochs or default.epochs,
        count=threads[-1] if threads else default.count,
        out=out or default.out,
    )
    progress = console()
    report = time_to_accuracy(
        course, data_folder(data_dir), lambda line: progress.print(line, soft_wrap=True, style="dim")
    )
    if as_json:
        typer.echo(strict_json.dumps(report))
        return
    for goal, seconds in milestones(report["rows"]):
        by = ", ".join(f"{name} {duration(taken)}" for name, taken in seconds.items())
        typer.echo(f"{goal:.0%} on validation: {by}; {seconds['torchvision'] / seconds['densekit']:.2f}x")
    typer.echo(f"written to {course.out / FILE}")


def _load(batch: int | None, workers: tuple[int, ...], rounds: int | None, out: Path | None, *, as_json: bool) -> None:
    from densekit.bench.loading import FILE, LoadingSettings, measure
    from densekit.cli.output import console

    default = LoadingSettings()
    course = LoadingSettings(
        batch=default.batch if batch is None else batch,
        workers=workers[-1] if workers else None,
        rounds=default.rounds if rounds is None else rounds,
        out=out or default.out,
    )
    progress = console()
    report = measure(course, lambda line: progress.print(line, soft_wrap=True, style="dim"))
    if as_json:
        typer.echo(strict_json.dumps(report))
        return
    for row in report["contenders"]:
        typer.echo(f"{row['name']}: {row['images_per_second']:.0f} images a second")
    for name, ratio in report["densekit_over"].items():
        typer.echo(f"densekit over {name}: {ratio:.2f}x")
    typer.echo(f"written to {course.out / FILE}")


def _serve(model: list[str] | None, rounds: int | None, out: Path | None, *, as_json: bool) -> None:
    from densekit.bench.serving import FILE, ServingSettings, measure, table
    from densekit.cli.output import console

    default = ServingSettings()
    course = ServingSettings(
        model=model[-1] if model else default.model,
        rounds=default.rounds if rounds is None else rounds,
        out=out or default.out,
    )
    progress = console()
    report = measure(course, lambda line: progress.print(line, soft_wrap=True, style="dim"))
    if as_json:
        typer.echo(strict_json.dumps(report))
        return
    typer.echo(table(report))
    typer.echo(f"written to {course.out / FILE}")


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    """`1,2` -> (1, 2). Raises InvalidInput."""
    try:
        return tuple(int(number) for number in text.split(",")) if text else ()
    except ValueError:
        raise InvalidInput(f"{option} {text} is not a list of whole numbers; write it like {option} 1,2") from None
