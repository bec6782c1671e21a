"""A terminal of 80 columns, with somebody at it who answers questions."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROMPT = "[y/N]:"


class Terminal:
    """Shows what is written to `end`, and answers each question."""

    def __init__(self, answer: str) -> None:
        self._own, self.end = pty.openpty()
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._answer = answer
        self._shown = ""
        self._answered = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        """Ends when all that was written has been read."""
        os.close(self.end)
        self._reader.join()
        os.close(self._own)

    def lines(self) -> list[str]:
        """What was shown, without colours and spinners."""
        text = _CONTROL.sub("", self._shown).replace("\r\n", "\n")
        lines = [line.rpartition("\r")[2] for line in text.split("\n")]  # of a line drawn again, the last
        return [line for line in lines if line and not line.endswith(" ...") and line[0] < "\u2800"]

    def _read(self) -> None:
        while True:
            try:
                read = os.read(self._own, 4096)
            except OSError:  # nobody has the other end open
                return
            self._shown += read.decode(errors="replace")
            if self._shown.count(_PROMPT) > self._answered:
                self._answered += 1
                os.write(self._own, self._answer.encode())


def control_by_standard_input() -> None:
    """Makes the terminal at standard input the controlling one of a process that leads a session: a `preexec_fn`."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def at_terminal(answer: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """This process has its standard input and standard error at a terminal, in the foreground."""
    terminal = Terminal(answer)
    streams: list[TextIO] = [os.fdopen(os.dup(terminal.end), mode) for mode in ("r", "w")]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            # The terminal that controls this process is another.
            patch.setattr(os, "tcgetpgrp", lambda descriptor: os.getpgrp())
            patch.setenv("TERM", "xterm")
            patch.delenv("NO_COLOR", raising=False)
            yield terminal
    finally:
        for stream in streams:
            stream.close()
        terminal.close()
