"""densekit study."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DATA, DataDir, Json, Settings, parse

Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Number of runs of each arm, with seeds 0 to N - 1.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Train on only this many images.")]
Jobs = Annotated[
    int | None, typer.Option(metavar="N", help="Number of parallel runs. Default: one for each core, or CUDA device.")
]
Only = Annotated[
    list[str] | None, typer.Option(metavar="ARM/SEED", help="Run only this one, without a report; can be repeated.")
]
Commands = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write one command per run to a file, and run nothing.")
]
Slurm = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a script for sbatch, and run nothing.")]
Gather = Annotated[bool, typer.Option("--gather", help="Only write the report of the finished runs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would run, and how long it takes.")]


def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="ablation, efficiency, depth, stochastic-depth, small-data, a YAML file, or a study's folder.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the study. Default: runs/study-NAME.")] = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA} Default: the grid's own.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe of all arms. Default: the grid's own.")] = None,
    epochs: Epochs = None,
    seeds: Seeds = None,
    limit: Limit = None,
    settings: Settings = None,
    data_dir: DataDir = None,
    jobs: Jobs = None,
    only: Only = None,
    commands: Commands = None,
    slurm: Slurm = None,
    gather: Gather = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train a grid of models with several seeds and compare them.

    Repeat the same command to resume a study; only missing runs are trained.
    """
    from densekit import api
    from densekit.cli.output import console, print_study
    from densekit.study.grid import Options

    done = api.study(
        name,
        out=out,
        options=Options(
            data=data, recipe=recipe, epochs=epochs, seeds=seeds, limit=limit, settings=dict(parse(settings))
        ),
        execution=api.Execution(
            data_dir=data_dir,
            jobs=jobs,
            only=only or (),
            commands=commands,
            slurm=slurm,
            gather=gather,
            dry_run=dry_run,
        ),
        console=console(),
    )
    if done.found is None:
        return
    if as_json:
        typer.echo(strict_json.dumps(asdict(done.found)))
    else:
        print_study(done)
