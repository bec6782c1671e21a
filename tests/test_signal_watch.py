"""Ctrl-C is answered at once, whatever the main thread does; the second ends a command, and never a program."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from densekit import signal_watch
from tests.conftest import write_photos
from tests.faults.command import ENVIRONMENT

# The main thread is in C for many seconds, where no handler of Python runs.
BUSY = """
import hashlib, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell lets its background jobs ignore
from densekit.signal_watch import watching
with watching(leave={leave}):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"p", b"s", {rounds})
"""


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def busy(*, leave: bool, rounds: int = 30_000_000) -> subprocess.Popen[str]:
    code = BUSY.format(leave=leave, rounds=rounds)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    return process


def test_the_first_is_answered_within_a_second_and_the_second_ends_the_process() -> None:
    with busy(leave=True) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        assert "stopping" in process.stderr.readline()
        assert time.monotonic() - asked < 1
        assert process.poll() is None
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        assert process.wait(2) == 130
        assert "stopped at once" in process.stderr.read()


def test_an_echo_of_a_launcher_is_not_a_second_one() -> None:
    process = busy(leave=True, rounds=3_000_000)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "stopped at once" not in err
    assert "KeyboardInterrupt" in err, "as always, once the main thread is back in Python"


def test_a_program_is_never_ended() -> None:
    with signal_watch.watching(leave=False):
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            time.sleep(0.35)
    assert signal.set_wakeup_fd(-1) == -1


def test_a_forked_process_does_not_count_for_its_parent(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[int] = []
    with signal_watch.watching(leave=False), signal_watch.acknowledged_by(lambda: said.append(1)):
        child = os.fork()
        if not child:
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.raise_signal(signal.SIGINT)
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.2)
    assert not said


@pytest.mark.slow
def test_training_speaks_within_two_seconds_and_answers_ctrl_c_within_one(tmp_path: Path) -> None:
    """Of a machine that other tests share, the first line is measured from where Python itself has started."""
    write_photos(tmp_path / "photos", size=130, count=40)
    words = ["train", "photos", "--model", "densenet_bc_40_12", "--image-size", "128", "--epochs", "50", "--out", "run"]
    code = (
        "import sys, time; print(time.time(), file=sys.stderr, flush=True); from densekit.cli.main import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        started = float(process.stderr.readline())
        assert process.stderr.readline()
        assert time.time() - started < 2
        lines: list[str] = []
        while not (lines and lines[-1].strip().startswith("memory")):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert [line for line in lines if line.startswith(("reading photos", "dividing", "measuring"))]
        time.sleep(1)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        while "ctrl-C: stopping after this step" not in (line := process.stderr.readline()):
            assert line, "it ended without a word"
        assert time.monotonic() - asked < 1
        assert process.wait(240) == 130
        assert "go on with: densekit resume run" in process.stderr.read()
