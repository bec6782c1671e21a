"""What is told to stop is a flag, so that the state is whole when a run ends."""

import errno
import fcntl
import signal
import time
from pathlib import Path

import pytest

from densekit.runs.run_folder import held
from densekit.training.signals import catch_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_remembered_and_its_handler_comes_back(number: signal.Signals) -> None:
    # Whoever runs the tests may ignore it.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with catch_signals() as stop:
            assert not stop.signal_number
            signal.raise_signal(number)
            assert stop.signal_number == number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_an_echo_of_a_launcher_is_the_same_ctrl_c() -> None:
    """After which the state is still saved; the next one is the user's."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with catch_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.05)
            signal.raise_signal(signal.SIGINT)
            assert stop.signal_number == signal.SIGINT
            time.sleep(0.35)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.signal_number
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "trains"), [(errno.ENOLCK, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_without_locks_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, trains: bool
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    reached = False
    try:
        with held(tmp_path):
            reached = True
    except OSError:
        assert not trains
    assert reached is trains
