"""densekit data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from densekit.cli.options import DataDir, DataSettings, Json, parse

app = typer.Typer(no_args_is_help=True, help="Looks after data sets.")


@app.command()
def check(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A data set's name, synthetic:HxWxC:CLASSES, csv:FILE, or a folder.")
    ],
    group: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="What must not be in two splits, such as a patient: the first (group) in a file's name; with a / in "
            "the pattern, in its path.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with pictures.")] = None,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Looks for what would make training on DATA wrong.

    Unreadable files, duplicates within and across splits, leaking groups, wrong labels, class balance, sizes. Exits
    with 3 where there is an error, 0 where there are only warnings.
    """
    from densekit.api.data import check as examine
    from densekit.cli.show import console, print_check
    from densekit.data.check import as_dict

    found = examine(data, group=group, out=out, data_dir=data_dir, settings=parse(settings), console=console())
    if as_json:
        typer.echo(json.dumps(as_dict(found)))
    else:
        print_check(found)
        if out is not None:
            typer.echo(f"report: {out}")
    if not found.passed:
        raise typer.Exit(3)
