"""Ctrl-C and SIGTERM as a flag that the loop looks at between steps, so that it stops with a whole state."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """`signal_number` is 0 until a signal arrives."""

    signal_number: int = 0


@contextmanager
def catch_signals() -> Iterator[Stop]:
    """Catches the first SIGINT or SIGTERM; a second one acts as usual, for a step that never ends."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def remember(number: int, _: FrameType | None) -> None:
        stop.signal_number = number
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, remember)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
