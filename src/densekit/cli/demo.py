"""densekit demo."""

from pathlib import Path
from typing import Annotated

import typer


def demo(out: Annotated[Path | None, typer.Option(help="New folder for the run. Default: runs/demo.")] = None) -> None:
    """Train a small DenseNet on the included digits, evaluate it, classify two samples, and write a report."""
    from densekit import api
    from densekit.cli.output import console, print_result

    folder = out or api.claim_folder(Path("runs"), "demo")
    run = api.train("digits", model="densenet_bc_22_12", out=folder, console=console())
    print_result(run.result)
    pictures = api.write_samples(run.folder, count=2)
    for path, outcome in zip(pictures, run.classifier().predict_each(pictures), strict=True):
        best = outcome.top(1)[0]  # type: ignore[union-attr]  # they were written a moment ago
        typer.echo(f"{path}  {best['class']} {best['probability']:.1%}")
    typer.echo(f"report: {run.report}")
    typer.echo("")
    typer.echo("try next:")
    typer.echo(f"  densekit predict {folder} {pictures[0]}")
    typer.echo("  densekit predict fashion-mnist shoe.jpg        # a trained model comes with the package")
    typer.echo("  densekit train fashion-mnist --epochs 3        # the same at full size")
    typer.echo("  densekit train path/to/photos                  # one folder of pictures for each class")
