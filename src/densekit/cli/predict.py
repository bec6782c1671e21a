"""densekit predict."""

import glob
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from densekit.cli.options import Json
from densekit.errors import BadData, BadImage


def predict(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a model folder, an exported file, a shipped model, or hf:NAME."),
    ],
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders, globs, wds:PATTERN, or - for standard input.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 3,
    invert: Annotated[bool, typer.Option("--invert", help="Swap dark and light first.")] = False,
    as_json: Json = False,
) -> None:
    """Names what is in pictures.

    Goes on after a bad picture, and then exits with 3.
    """
    from densekit import api

    classifier = api.load(model)
    named = list(sources(paths))
    outcomes = classifier.predict_each((source() if callable(source) else source for _, source in named), invert=invert)
    bad = 0
    for (name, source), outcome in zip(named, outcomes, strict=True):
        if isinstance(outcome, BadImage):
            bad += 1
            if as_json:
                typer.echo(json.dumps({"path": name, "error": {"code": outcome.code, "message": str(outcome)}}))
            else:
                place = f"{'standard input' if name == '-' else name}: " if callable(source) else ""
                typer.echo(f"densekit: {place}{outcome}", err=True)
            continue
        for notice in outcome.notices:
            typer.echo(f"densekit: {name}: {notice}", err=True)
        if as_json:
            typer.echo(json.dumps({"path": name, "top": outcome.top(top)}))
        else:
            best = "   ".join(f"{row['class']} {row['probability']:.1%}{_verdict(row)}" for row in outcome.top(top))
            typer.echo(f"{name}  {best}")
    if bad:
        raise typer.Exit(3)


def _read_standard_input() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read()  # None: it is closed


def _verdict(row: dict[str, Any]) -> str:
    """Of a multi-label model: whether it is taken to be there, by the thresholds that validation chose."""
    return "" if "present" not in row else " yes" if row["present"] else " no"


def sources(paths: list[str]) -> Iterator[tuple[str, str | Callable[[], bytes]]]:
    """(name, path or what reads the bytes) of each picture. Raises BadData for a folder or pattern without any."""
    from densekit.data.decode import IMAGE_SUFFIXES
    from densekit.data.shards import pictures

    for path in paths:
        if path == "-":
            yield "-", _read_standard_input
        elif path.startswith("wds:"):
            yield from pictures(path.removeprefix("wds:"))
        elif Path(path).is_dir():
            found = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise BadData(f"no pictures in {path}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
            yield from ((str(p), str(p)) for p in found)
        elif not Path(path).exists() and glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                raise BadData(f"nothing matches {path}")
            yield from ((match, match) for match in matches if not Path(match).is_dir())
        else:
            yield path, path  # a missing file is one bad picture, not the end
