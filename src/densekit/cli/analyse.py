"""densekit analyse."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, DataSettings, Json, parse


def analyse(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a shipped model, or hf:NAME.")],
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Default: what it was trained on.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for page, figures and numbers. Default: below runs/.")
    ] = None,
    twin: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="The same network trained with another seed; repeat it for more."),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A trained residual network, to compare gradients and probes with."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="weights, ablation, gradients, probes or maps; repeat it for more."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=4, help="How many are looked at.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Looks into a DenseNet: the paper's figure 5 and claims, measured on it.

    Feature reuse and what each connection is worth, gradients by layer, linear probes, class activation maps. Without
    images of the classes it knows, only its weights.
    """
    from densekit.analysis.findings import as_dict
    from densekit.api.analysing import analyse as examine
    from densekit.cli.show import console, print_analysis

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
