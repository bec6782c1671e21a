"""What a person at a terminal sees first, is asked, and may stop."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from densekit import signal_watch
from densekit.words import printable

_LATE = 0.5  # seconds


@contextmanager
def attended() -> Iterator[None]:
    """Acknowledges ctrl-C within a moment; a second one ends the process."""
    with signal_watch.watching(leave=True):
        yield


@contextmanager
def loading() -> Iterator[None]:
    """Says that torch is being imported, which takes seconds, if it takes long."""
    late = threading.Timer(_LATE, typer.echo, ["loading PyTorch ..."], {"err": True})
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()


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
