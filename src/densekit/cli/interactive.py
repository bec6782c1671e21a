"""What a person at a terminal sees first, is asked, and may stop."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

import typer

from densekit import signal_watch
from densekit.formatting import printable

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
    """What asks a question of one line. None, for a warning instead, with `yes` or where nobody is there to answer."""
    return _confirm if not yes and _in_foreground() and sys.stderr.isatty() else None


def _in_foreground() -> bool:
    """Whether standard input is this process's to read: a shell's background job is stopped when it reads."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # it is closed, or not the terminal that controls this process
        return False


def _confirm(question: str) -> bool:
    with redirect_stdout(sys.stderr):  # typer writes the last space of the question to standard output
        return typer.confirm(printable(question), default=False, err=True)
