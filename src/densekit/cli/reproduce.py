"""densekit reproduce."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, Json, Settings, parse
from densekit.cli.study import Commands, DryRun, Epochs, Gather, Jobs, Limit, Only, Seeds, Slurm
from densekit.errors import InvalidInput


def reproduce(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="A published number, such as cifar10+/densenet_bc_100_12."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List all published numbers, or only TARGET.")] = False,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs. Default: below runs/reproduce.")] = None,
    epochs: Epochs = None,
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
    """List the paper's published numbers, or train one and write evidence of the result.

    Repeat the same command to resume it. With a shortened recipe (--epochs, --limit, --set), the result does not count
    as a reproduction, and the evidence says so.
    """
    from densekit.cli.output import console, print_ledger, print_reproduced
    from densekit.study.ledger import cell_for, cells

    if list_:
        chosen = [cell_for(target)] if target else list(cells().values())
        if as_json:
            typer.echo(strict_json.dumps([cell.document() for cell in chosen], indent=1))
        else:
            print_ledger(chosen)
        return
    if target is None:
        raise InvalidInput("no TARGET: name a number of the paper, such as cifar10+/densenet_bc_100_12, or pass --list")
    from densekit import api
    from densekit.study.grid import Options

    done = api.reproduce(
        target,
        out=out,
        options=Options(epochs=epochs, seeds=seeds, limit=limit, settings=dict(parse(settings))),
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
    if done is None:
        return
    if as_json:
        typer.echo(strict_json.dumps(dict(done.document)))
    else:
        print_reproduced(done)
