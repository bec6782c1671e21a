"""What asks a run to stop, as a flag that the loop looks at between steps, so that it ends with a whole state."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from densekit import signal_watch

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which a repeated signal is the same one.
_ECHO = {signal.SIGINT: signal_watch.ECHO, signal.SIGTERM: 10.0, signal.SIGHUP: 10.0}


@dataclass
class Stop:
    """`signal_number` is 0 until a signal arrives."""

    signal_number: int = 0
    at_step: int | None = None
    """Where to stop without one."""

    def reached(self, step: int) -> bool:
        """Whether that is now."""
        return self.at_step is not None and step >= self.at_step


@contextmanager
def catch_signals(at_step: int | None = None) -> Iterator[Stop]:
    """Catches SIGINT, SIGTERM and SIGHUP, unless nohup made them ignored.

    A second one acts as usual, for a step that never ends; but not one that follows closely: who stops a whole group of
    processes, and torchrun after it, sends two.
    """
    stop = Stop(at_step=at_step)
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    first = 0.0
    caught = {number: signal.getsignal(number) for number in _SIGNALS}
    previous = {number: handler for number, handler in caught.items() if handler is not signal.SIG_IGN}

    def remember(number: int, _: FrameType | None) -> None:
        nonlocal first
        if stop.signal_number and time.monotonic() - first > _ECHO[signal.Signals(number)]:
            for each, handler in previous.items():
                signal.signal(each, handler)
            signal.raise_signal(number)
        elif not stop.signal_number:
            stop.signal_number, first = number, time.monotonic()

    for number in previous:
        signal.signal(number, remember)
    try:
        with signal_watch.watching(leave=False):
            yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
