"""densekit train."""

from pathlib import Path
from typing import Annotated

import typer

from densekit.cli.interactive import asking, attended, loading
from densekit.cli.options import DATA, ConfigFile, DataDir, ImageSize, Init, Model, RecipeName, Seed, Settings, parse


def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
    model: Model = None,
    recipe: RecipeName = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the run. Default: below runs/.")] = None,
    seed: Seed = None,
    data_dir: DataDir = None,
    init: Init = None,
    image_size: ImageSize = None,
    config: ConfigFile = None,
    settings: Settings = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before an expensive run.")] = False,
) -> None:
    """Train a model, evaluate it, and write a report.

    Options that you leave out (model, initial weights, image size, recipe, learning rate) are chosen from the data and
    the machine. The choices and their reasons are printed before training.
    """
    pairs = parse(settings, image_size)
    with attended():
        with loading():
            from densekit import api
            from densekit.cli.output import console, print_run

        run = api.train(
            data,
            model=model,
            recipe=recipe,
            epochs=epochs,
            out=out,
            seed=seed,
            data_dir=data_dir,
            init=init,
            config=config,
            settings=pairs,
            console=console(),
            ask=asking(yes=yes),
        )
        print_run(run)
