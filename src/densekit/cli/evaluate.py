"""densekit evaluate."""

from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DataDir, DataSettings, Json, parse


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a model folder, an exported file, a shipped model, or hf:NAME."),
    ],
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="Default: what it was trained on.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    ten_crop: Annotated[bool, typer.Option("--ten-crop", help="Average ten crops of each image.")] = False,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Measures a model on a split of a data set."""
    from densekit import api
    from densekit.cli.show import console, leads, print_result
    from densekit.engine.task import document_of

    result = api.evaluate(
        model,
        data,
        split=split,
        ten_crop=ten_crop,
        data_dir=data_dir,
        settings=parse(settings),
        console=console(),
    )
    if not leads():
        return
    if as_json:
        # Without the time it took: the same question has the same answer, on any number of processes.
        typer.echo(strict_json.dumps({key: value for key, value in document_of(result).items() if key != "seconds"}))
    else:
        print_result(result, per_class=True)
