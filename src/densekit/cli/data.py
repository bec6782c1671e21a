"""densekit data."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DATA, DataDir, DataSettings, Json, parse
from densekit.words import counted

app = typer.Typer(no_args_is_help=True, help="Looks after data sets.")


@app.command()
def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
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
        typer.echo(strict_json.dumps(as_dict(found)))
    else:
        print_check(found)
        if out is not None:
            typer.echo(f"report: {out}")
    if not found.passed:
        raise typer.Exit(3)


@app.command()
def shard(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the shards.")],
    shard_size: Annotated[int, typer.Option(min=1, metavar="MB", help="Megabytes of a shard, about.")] = 256,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Writes DATA as tar shards of WebDataset's form, for wds:DIR.

    Image files are copied as they are. Splits that DATA brings are kept; what has none is divided by whoever trains on
    the shards, as the images' bytes would have it here.
    """
    from densekit.api.data import shard as write
    from densekit.cli.show import console

    counts = write(
        data,
        out,
        shard_bytes=shard_size * 1_000_000,
        data_dir=data_dir,
        settings=parse(settings),
        console=console(),
    )
    if as_json:
        typer.echo(strict_json.dumps({"out": str(out), "splits": counts}))
        return
    for split, (shards, images) in counts.items():
        typer.echo(f"{split}: {counted(images, 'image')} in {counted(shards, 'shard')}")
    typer.echo(f"train on them: densekit train wds:{out}")
