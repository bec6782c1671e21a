"""densekit resume."""

from pathlib import Path
from typing import Annotated

import typer

from densekit.cli.interactive import attended, loading
from densekit.cli.options import DataDir, Settings, parse


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a stopped run.")],
    epochs: Annotated[int | None, typer.Option(help="Total number of epochs, to train for longer.")] = None,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Continue although the recipe or the images have changed.")
    ] = False,
    settings: Settings = None,
    data_dir: DataDir = None,
) -> None:
    """Resume a stopped run."""
    with attended():
        with loading():
            from densekit import api
            from densekit.cli.output import console, print_run

        resumed = api.resume(
            run,
            epochs=epochs,
            data_dir=data_dir,
            accept_changes=accept_changes,
            settings=parse(settings),
            console=console(),
        )
        print_run(resumed)
