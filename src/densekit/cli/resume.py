"""densekit resume."""

from pathlib import Path
from typing import Annotated

import typer

from densekit.cli.options import DataDir


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was stopped.")],
    epochs: Annotated[int | None, typer.Option(help="Train to this many epochs instead.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Goes on where a run stopped."""
    from densekit import api
    from densekit.cli.show import console, print_result

    finished = api.resume(run, epochs=epochs, data_dir=data_dir, console=console())
    print_result(finished.result)
    typer.echo(f"report: {finished.report}")
