"""What a person at a terminal sees first, is asked, and may stop."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from densekit import signal_watch
from densekit.words import printable


@contextmanager
def attended() -> Iterator[None]:
    """Says that torch is being loaded, which takes seconds; ctrl-C is acknowledged, and twice ends the process."""
    with signal_watch.watching(leave=True):
        if "torch" not in sys.modules:
            typer.echo("loading PyTorch ...", err=True)
        yield


def asking(*, yes: bool) -> Callable[[str], bool] | None:
    """What asks a question of one line; with `yes` it answers itself. None where nobody is there to answer."""
    if yes:
        return _taken
    return _confirm if sys.stdin.isatty() and sys.stderr.isatty() else None


def _taken(question: str) -> bool:
    typer.echo(f"{printable(question)} yes", err=True)
    return True


def _confirm(question: str) -> bool:
    return typer.confirm(printable(question), default=False, err=True)
