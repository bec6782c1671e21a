"""densekit predict."""

import glob
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from densekit import strict_json
from densekit.cli.options import Json
from densekit.errors import BadData, BadImage
from densekit.words import printable


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
                typer.echo(strict_json.dumps({"path": name, "error": {"code": outcome.code, "message": str(outcome)}}))
            else:
                place = f"{'standard input' if name == '-' else printable(name)}: " if callable(source) else ""
                typer.echo(f"densekit: {place}{outcome}", err=True)
            continue
        for notice in outcome.notices:
            typer.echo(f"densekit: {printable(name)}: {notice}", err=True)
        if as_json:
            typer.echo(strict_json.dumps({"path": name, "top": outcome.top(top)}))
        else:
            best = "   ".join(f"{row['class']} {row['probability']:.1%}{_verdict(row)}" for row in outcome.top(top))
            typer.echo(printable(f"{name}  {best}"))
    if bad:
        raise typer.Exit(3)


def _read_standard_input() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read()  # None: it is closed


def _verdict(row: dict[str, Any]) -> str:
    """Of a multi-label model: whether it is taken to be there, by the thresholds that validation chose."""
    return "" if "present" not in row else " yes" if row["present"] else " no"


def _below(folder: str) -> Iterator[tuple[str, str]]:
    from densekit.data.decode import IMAGE_SUFFIXES
    from densekit.data.scan import scan, summary

    found = scan(Path(folder))
    unused = summary(found.unused)
    if not found.images:
        looked = unused or f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise BadData(f"no pictures in {folder}; {looked}")
    if unused:
        typer.echo(f"densekit: {printable(folder)}: {unused}", err=True)
    yield from ((str(path), str(path)) for path in found.images)


def _matching(pattern: str) -> Iterator[tuple[str, str]]:
    """The files that match; where only folders do, what is below them."""
    from densekit.data.scan import is_litter

    # Litter that the pattern names itself is what was asked for.
    named = Path(pattern).parts
    matches = [
        match
        for match in sorted(glob.glob(pattern, recursive=True))
        if not any(is_litter(part) for part in Path(match).parts if part not in named)
    ]
    files = [match for match in matches if not Path(match).is_dir()]
    if not matches:
        raise BadData(f"nothing matches {pattern}; check the path, or quote it for the shell")
    for match in files or matches:
        yield from [(match, match)] if files else _below(match)


def sources(paths: list[str]) -> Iterator[tuple[str, str | Callable[[], bytes]]]:
    """(name, path or what reads the bytes) of each picture. Raises BadData for a folder or pattern without any."""
    from densekit.data.shards import pictures

    for path in paths:
        if path == "-":
            yield "-", _read_standard_input
        elif path.startswith("wds:"):
            yield from pictures(path.removeprefix("wds:"))
        elif Path(path).is_dir():
            yield from _below(path)
        elif not Path(path).exists() and glob.has_magic(path):
            yield from _matching(path)
        else:
            yield path, path  # a missing file is one bad picture, not the end
