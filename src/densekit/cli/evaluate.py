"""densekit evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, DataSettings, Json, parse
from densekit.formatting import printable


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a model folder, an exported file, a shipped model, or hf:NAME."),
    ],
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Default: the data set of the model.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    ten_crop: Annotated[
        bool, typer.Option("--ten-crop", help="Average the predictions for ten crops of each image.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Write report.html, metrics.json and predictions.csv to this folder."
        ),
    ] = None,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a data set."""
    from densekit import api
    from densekit.cli.output import console, is_main, print_result
    from densekit.evaluation.output_files import as_document

    result = api.evaluate(
        model,
        data,
        split=split,
        ten_crop=ten_crop,
        data_dir=data_dir,
        settings=parse(settings),
        out=out,
        console=console(),
    )
    if not is_main():
        return
    if as_json:
        typer.echo(strict_json.dumps(as_document(result)))
        return
    print_result(result, per_class=True)
    if out is not None:
        typer.echo(printable(f"report: {out / 'report.html'}"))
