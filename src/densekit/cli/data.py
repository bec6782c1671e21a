"""densekit data."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import DATA, DataDir, DataSettings, Json, parse
from densekit.formatting import counted

app = typer.Typer(no_args_is_help=True, help="Inspect and convert data sets.")


@app.command()
def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
    group: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Group that must not be in two splits, such as a patient: the first (group) of the pattern in the "
            "file name, or in the path if the pattern contains a /.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page with images.")] = None,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Check a data set before training.

    Finds unreadable files, duplicates within and across splits, groups in several splits, conflicting labels,
    unbalanced classes and unsuitable sizes. The exit status is 3 if there is an error, 0 if there are only warnings.
    """
    from densekit.cli.output import console, print_check
    from densekit.data_check.check import check as examine
    from densekit.data_check.inspection import as_dict

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
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the shards.")],
    shard_size: Annotated[
        int, typer.Option(min=1, metavar="MB", help="Approximate size of a shard in megabytes.")
    ] = 256,
    data_dir: DataDir = None,
    settings: DataSettings = None,
    as_json: Json = False,
) -> None:
    """Write a data set as tar shards in the WebDataset format, for wds:DIR.

    Image files are copied unchanged. Existing splits are kept. Data without splits are divided when a model is trained
    on the shards, in the same way as the original files.
    """
    from densekit.cli.output import console
    from densekit.data.write_shards import shard as write

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
