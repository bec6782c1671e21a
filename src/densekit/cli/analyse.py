"""densekit analyse."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, DataSettings, Json, parse


def analyse(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a shipped model, or hf:NAME.")],
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Default: the data set of the model.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the page, figures and numbers. Default: below runs/.")
    ] = None,
    twin: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="The same model trained with another seed; can be repeated."),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A trained ResNet to compare gradients and probes with."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="weights, ablation, gradients, probes or maps; can be repeated."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=4, help="Number of images. Default: 1,000, or 64 photographs.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Analyse a DenseNet: figure 5 of the paper and its claims, measured on your model.

    Measures feature reuse, the effect of removing each connection, gradients by layer, linear probes and class
    activation maps. Without images of the model's classes, only the weights are analysed.
    """
    from densekit.analysis.analyse import analyse as examine
    from densekit.analysis.measurements import as_dict
    from densekit.cli.output import console, print_analysis

    done = examine(
        model,
        data,
        out=out,
        twins=twin or (),
        beside=beside,
        only=only or (),
        images=images,
        split=split,
        data_dir=data_dir,
        settings=parse(settings),
        console=console(),
    )
    if as_json:
        typer.echo(strict_json.dumps(as_dict(done.found)))
    else:
        print_analysis(done)
