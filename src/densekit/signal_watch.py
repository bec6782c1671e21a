"""Ctrl-C acknowledged within a moment, even while the main thread is in a long computation.

Python runs a signal's handler between two bytecodes of the main thread, which a training step on a CPU may keep for
ten seconds. The interpreter also writes each signal to a file descriptor, at once; a thread here reads that.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_END = b"\0"  # no signal has this number
ECHO = 0.3
"""Seconds: a launcher that passes ctrl-C on makes two of one, and nobody presses it twice so fast."""
_CLEAR = "\r\x1b[2K\x1b[?25h"  # the line of a progress bar, and the cursor that it hides


class _Watch:
    """The state of the one watch of this process."""

    def __init__(self) -> None:
        self.active = False
        self.listeners: list[Callable[[], None]] = []
        self.received: list[float] = []


_watch = _Watch()


def _write(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads standard error any more
        sys.stderr.write(line)
        sys.stderr.flush()


def _acknowledge() -> None:
    _write("densekit: ctrl-C: stopping (press it again to stop at once)\n")


@contextmanager
def watching(*, leave: bool) -> Iterator[None]:
    """Acknowledges SIGINT on standard error while it lasts; with `leave`, a second one ends the process with 130.

    `leave` is for the command line. Nothing is lost by it but the steps since the last checkpoint, which is always
    whole. Does nothing where a watch is active already, or outside the main thread, which alone may handle signals.
    """
    if _watch.active or threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _watch.active, _watch.received = True, []
    thread = threading.Thread(target=_read, args=(read, before, leave), name="signal watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.write(write, _END)  # the end of the file would not come while a forked process has the descriptor, too
        thread.join()
        os.close(write)
        os.close(read)
        _watch.active = False


@contextmanager
def acknowledged_by(listener: Callable[[], None]) -> Iterator[None]:
    """While it lasts, `listener` says it instead of the line on standard error. It is called in another thread."""
    _watch.listeners.append(listener)
    try:
        yield
    finally:
        _watch.listeners.remove(listener)


def _read(descriptor: int, before: int, leave: bool) -> None:
    while numbers := os.read(descriptor, 64):
        if before != -1:  # an event loop's, which waits for it
            with suppress(OSError):
                os.write(before, numbers)
        if signal.SIGINT in numbers:
            _interrupted(leave)
        if _END in numbers:
            return


def _interrupted(leave: bool) -> None:
    now = time.monotonic()
    if not _watch.received:
        _watch.received.append(now)
        (_watch.listeners[-1] if _watch.listeners else _acknowledge)()
    elif leave and now - _watch.received[0] > ECHO:
        clear = _CLEAR if sys.stderr.isatty() else ""
        _write(f"{clear}densekit: stopped at once; what had been saved is whole\n")
        os._exit(128 + signal.SIGINT)


def _after_fork() -> None:
    """A child would write to its parent's pipe: one ctrl-C in a terminal reaches both, and would count twice."""
    if _watch.active:
        signal.set_wakeup_fd(-1)
        _watch.active = False


os.register_at_fork(after_in_child=_after_fork)
