"""densekit predict."""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densekit import strict_json
from densekit.cli.options import Json, parse
from densekit.errors import BadImage, InvalidInput, UnknownName
from densekit.formatting import counted, printable

if TYPE_CHECKING:
    from densekit.config import DataConfig
    from densekit.data.image_files import ImageFile
    from densekit.inference.classifier import Prediction
    from densekit.inference.sort_into_folders import Sorter

    Taker = Callable[[ImageFile, Prediction | BadImage], None]
_SETTINGS = ("data.image_root", "data.max_pixels", "data.path_column")


def predict(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a model folder, an exported file, a shipped model, or hf:NAME."),
    ],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Files, folders, globs, csv:FILE, wds:PATTERN, hf:NAME, or - for standard input.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show.")] = 3,
    invert: Annotated[bool, typer.Option("--invert", help="Swap dark and light.")] = False,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a table with one row per image and all probabilities."),
    ] = None,
    sort_into: Annotated[
        Path | None, typer.Option("--sort-into", metavar="DIR", help="Copy each image to DIR/CLASS/.")
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option("--min-probability", metavar="P", help="With --sort-into: images below P go to DIR/unsure/."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="data.path_column and data.image_root, for csv:FILE; data.max_pixels."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify images.

    Images that cannot be read are reported and skipped; the exit status is then 3.
    """
    from densekit import api
    from densekit.inference.prediction_table import prediction_table
    from densekit.inference.sort_into_folders import Sorter

    if min_probability is not None and sort_into is None:
        raise InvalidInput("--min-probability is for --sort-into DIR; name the folder, or leave it out")
    classifier = api.load(model)
    config = _read_by(settings)
    images = list(sources(paths, config, classifier.path_column))
    sorter = None if sort_into is None else Sorter(sort_into, classifier, min_probability or 0.0)
    if sorter is not None:
        images = _without_own(sorter, images)
    files = table is not None or sorter is not None
    show = _printer(top, as_json=as_json, quiet=files)
    outcomes = classifier.predict_each((image.read() for image in images), invert=invert, max_pixels=config.max_pixels)
    with ExitStack() as stack:
        takers = [_until_closed(show) if as_json and files else show]
        if table is not None:
            takers.append(stack.enter_context(prediction_table(table, classifier)))
        if sorter is not None:
            takers.append(sorter.place)
        if files:
            takers.append(stack.enter_context(_bar(len(images))))
        bad = 0
        for image, outcome in zip(images, outcomes, strict=True):
            bad += isinstance(outcome, BadImage)
            for take in takers:
                take(image, outcome)
    if not as_json:
        _say_what_was_written(len(images), bad, table, sorter)
    if bad:
        raise typer.Exit(3)


@contextmanager
def _bar(images: int) -> Iterator["Taker"]:
    """Progress on standard error."""
    from densekit.cli.output import console
    from densekit.terminal import display_of

    with display_of(console()).counting("predicting", images) as advance:
        yield lambda image, outcome: advance(1)


def _until_closed(show: "Taker") -> "Taker":
    """`show`, until the reader of standard output, such as `head`, has seen enough: files are still written."""
    closed = False

    def guarded(image: "ImageFile", outcome: "Prediction | BadImage") -> None:
        nonlocal closed
        try:
            if not closed:
                show(image, outcome)
        except BrokenPipeError:
            closed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return guarded


def _printer(top: int, *, as_json: bool, quiet: bool) -> "Taker":
    """What tells people, or with `as_json` programs, of an image; `quiet`: only what is wrong."""

    def show(image: "ImageFile", outcome: "Prediction | BadImage") -> None:
        name = image.name
        if isinstance(outcome, BadImage):
            error = {"code": outcome.code, "message": str(outcome)}
            if as_json:
                typer.echo(strict_json.dumps({"path": name, "error": error}))
            else:
                place = f"{'standard input' if name == '-' else printable(name)}: " if callable(image.source) else ""
                typer.echo(f"densekit: {place}{outcome}", err=True)
            return
        for notice in outcome.notices:
            typer.echo(f"densekit: {printable(name)}: {notice}", err=True)
        if as_json:
            typer.echo(strict_json.dumps({"path": name, "top": outcome.top(top)}))
        elif not quiet:
            best = "   ".join(f"{row['class']} {row['probability']:.1%}{_verdict(row)}" for row in outcome.top(top))
            typer.echo(printable(f"{name}  {best}"))

    return show


def _say_what_was_written(images: int, bad: int, table: Path | None, sorter: "Sorter | None") -> None:
    unread = f", {bad:,} could not be read" if bad else ""
    if table is not None:
        typer.echo(printable(f"{table}: {counted(images, 'image')}{unread}"))
    if sorter is not None:
        typer.echo(printable(f"{sorter.folder}: {counted(images, 'image')}{unread}"))
        width = max(map(len, sorter.counts), default=0)
        for name, count in sorted(sorter.counts.items(), key=lambda item: (-item[1], item[0])):
            typer.echo(printable(f"  {name:<{width}}  {count:>7,}"))
        if sorter.unplaced:
            typer.echo(f"  not copied, as they cannot be opened: {len(sorter.unplaced):,}")


def _without_own(sorter: "Sorter", images: Sequence["ImageFile"]) -> list["ImageFile"]:
    """Without what was sorted before."""
    others = sorter.without_own(images)
    if len(others) < len(images):
        left = counted(len(images) - len(others), "image")
        typer.echo(f"densekit: left out {left} in the folders of {printable(sorter.folder)}", err=True)
    return others


def _read_by(settings: list[str] | None) -> "DataConfig":
    """How tables and images are read. Raises UnknownName or InvalidInput for settings that are not about that."""
    from densekit.config import DataConfig

    config = DataConfig(source="csv:")
    if not settings:
        return config
    from densekit.config import with_data_settings

    given = parse(settings)
    for key in given:
        if key not in _SETTINGS:
            raise UnknownName("setting of predict", key, _SETTINGS)
    return with_data_settings(config, given)


@functools.cache
def _read_standard_input() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read()  # None: it is closed


def _verdict(row: dict[str, Any]) -> str:
    """Of a multi-label model: whether it is taken to be there, by the thresholds that validation chose."""
    return "" if "present" not in row else " yes" if row["present"] else " no"


def sources(paths: list[str], table: "DataConfig", trained_column: str | None) -> Iterator["ImageFile"]:
    """The images that the arguments name. Raises BadData for a folder or pattern without any."""
    from densekit.data.image_files import ImageFile, find_images

    def note(folder: str, line: str) -> None:
        typer.echo(f"densekit: {printable(folder)}: {line}", err=True)

    for path in paths:
        if path == "-":
            yield ImageFile("-", _read_standard_input)
        else:
            yield from find_images([path], table=table, trained_column=trained_column, note=note)
