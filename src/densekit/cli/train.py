"""densekit train."""

from pathlib import Path
from typing import Annotated

import typer

from densekit.cli.attended import asking, attended, loading
from densekit.cli.options import DATA, DataDir, Settings, parse


def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
    model: Annotated[str | None, typer.Option(help="A network's name; `densekit models` lists them.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="quick, finetune, modern, paper, c10, c10+, c100, c100+, svhn, imagenet.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run. Default: below runs/.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all random choices. Default: 0.")] = None,
    data_dir: DataDir = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Weights to start from: a MODEL, torchvision:NAME, timm:NAME, or none."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this many pixels square.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings.")] = None,
    settings: Settings = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a run that is expensive.")] = False,
) -> None:
    """Train a network, evaluate it, and write a report.

    What you leave open (model, weights, image size, recipe, rate) is decided by the data and the machine; the plan says
    what was decided, and why.
    """
    pairs = parse(settings)
    if image_size is not None:
        pairs = {"data.image_size": str(image_size)} | pairs
    with attended():
        with loading():
            from densekit import api
            from densekit.cli.show import console, print_run

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
