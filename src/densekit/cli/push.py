"""densekit push."""

from pathlib import Path
from typing import Annotated

import typer

from densekit import strict_json
from densekit.cli.options import Json


def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model folder, a shipped model, or hf:NAME.")],
    to: Annotated[
        str, typer.Argument(metavar="hf:OWNER/NAME", help="The repository; it is created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    license: Annotated[
        str | None, typer.Option(metavar="NAME", help="Licence of the weights, as the Hub names it, e.g. apache-2.0.")
    ] = None,
    dry_run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the files to this new folder and send nothing.")
    ] = None,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Replace README.md even if it was edited on the Hub.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Push a model to the Hugging Face Hub, with a model card of what was measured.

    Needs a token with write access: `hf auth login`, or HF_TOKEN.
    """
    from densekit import api

    done = api.push(model, to, private=private, license=license, dry_run=dry_run, replace_card=replace_card)
    if as_json:
        where = {"url": done.url, "revision": done.revision, "folder": str(done.folder) if done.folder else None}
        typer.echo(strict_json.dumps(where | {"files": done.files, "notes": done.notes}))
        return
    for note in done.notes:
        typer.echo(f"densekit: {note}", err=True)
    for name, size in done.files.items():
        typer.echo(f"  {name:<20}{size:>12,} bytes")
    if done.folder is not None:
        typer.echo(f"nothing was sent; what would be is in {done.folder}")
        return
    address = to.partition("@")[0]
    typer.echo(f"pushed: {done.url}")
    typer.echo(f"use it: densekit predict {address}@{done.revision} PATH")
