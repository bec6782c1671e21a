"""The command asks at a terminal before an expensive run, warns elsewhere, and refuses what cannot be."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from densekit.training import request as requests
from densekit.training import train
from tests.cli.terminal import Terminal, at_terminal, control_by_standard_input
from tests.conftest import Command, write_photos

DENSEKIT = (sys.executable, "-m", "densekit")
WORDS = ("train", "photos", "--model", "densenet_bc_10_4", "--epochs", "1", "--out", "run")
SCALED_UP = (*WORDS, "--image-size", "32")
BETTER = f"densekit {shlex.join(WORDS)} --image-size 16"
CONCERN = f"pictures of 16 px are scaled up to 32, 4 times the work for nothing new to see; better: {BETTER}"
QUESTION = f"{CONCERN}. Go on all the same? [y/N]:"
# A batch that takes some hundred gigabytes by the most sparing plan.
TOO_MUCH = ("train", "synthetic:32x32x3:2:9000", "--model", "densenet_bc_250_24", "--set", "batch_size=8000")


@pytest.fixture
def here(command: Command, tmp_path: Path) -> Path:
    """The folder that commands run in, with pictures of 16 pixels."""
    write_photos(tmp_path / "photos", size=16)
    return tmp_path


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_a_no_at_the_terminal_starts_nothing_and_names_the_better_command(
    answer: str, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_terminal(answer, monkeypatch) as terminal:
        status, out, _ = command(*SCALED_UP)
    assert status == 2
    assert out == "", "standard output is for results"
    question, said = terminal.lines()
    assert question.rstrip(" n") == QUESTION
    assert said.strip() == f"densekit: not started; try: {BETTER}"
    assert not (here / "run").exists()


def test_a_yes_at_the_terminal_trains(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with at_terminal("y\n", monkeypatch) as terminal:
        status, out, _ = command(*SCALED_UP)
    assert status == 0
    assert [line.rstrip(" y") for line in terminal.lines() if "16 px" in line] == [QUESTION]
    assert out.splitlines()[-1] == "report: run/report.html"
    assert (here / "run" / "result.json").exists()


def test_yes_on_the_command_line_warns_and_goes_on(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_terminal("n\n", monkeypatch) as terminal:
        status, _, _ = command(*SCALED_UP, "--yes")
    assert status == 0
    assert terminal.lines()[0] == f"warning: {CONCERN}"
    assert not any("[y/N]" in line for line in terminal.lines())
    assert (here / "run" / "result.json").exists()


def test_where_there_is_no_terminal_it_warns_on_standard_error_and_goes_on(here: Path, command: Command) -> None:
    status, out, err = command(*SCALED_UP)
    assert status == 0
    assert err.splitlines()[0] == f"warning: {CONCERN}"
    assert "warning" not in out
    assert (here / "run" / "result.json").exists()


def test_the_better_command_is_one_that_asks_nothing(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_terminal("n\n", monkeypatch) as terminal:
        status, _, _ = command(*shlex.split(BETTER)[1:])
    assert status == 0
    assert not any("[y/N]" in line or "warning" in line for line in terminal.lines())


@pytest.mark.parametrize("yes", [(), ("--yes",)])
@pytest.mark.parametrize("attended", [True, False])
def test_what_memory_cannot_hold_is_refused_before_it_is_measured(
    yes: tuple[str, ...], attended: bool, here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "total_memory", lambda _: 1e5)
    monkeypatch.setattr(train, "choose", lambda *_: pytest.fail("measured a step that cannot be made"))
    if attended:
        with at_terminal("y\n", monkeypatch) as terminal:
            status, _, _ = command(*WORDS, *yes)
        lines = terminal.lines()
    else:
        status, _, err = command(*WORDS, *yes)
        lines = err.splitlines()
    assert status == 2
    (said,) = lines
    assert re.fullmatch(
        r"densekit: it needs about [\d.]+ [kM]B of memory, and this machine has 100\.0 kB; try: .*", said
    )
    assert said.endswith(f"densekit {shlex.join(WORDS)} --set batch_size=2")
    assert not (here / "run").exists()


def run(words: Sequence[str], answer: str, folder: Path) -> tuple[int, list[str]]:
    """A process of its own at a terminal: its status, and what it shows."""
    terminal = Terminal(answer)
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=os.environ | {"TERM": "xterm"},
            stdin=terminal.end,
            stdout=terminal.end,
            stderr=terminal.end,
            start_new_session=True,
            preexec_fn=control_by_standard_input,
        )
        try:
            return process.wait(120), terminal.lines()
        finally:
            process.kill()
            process.wait()
    finally:
        terminal.close()


@pytest.mark.parametrize(("background", "expected"), [("& wait $!", "warns"), ("", "asks")])
def test_a_background_job_is_not_asked_as_reading_would_stop_it(background: str, expected: str, tmp_path: Path) -> None:
    """Job control of a shell puts it into a process group of its own."""
    code = "from densekit.cli.interactive import asking; print('asks' if asking(yes=False) else 'warns')"
    status, lines = run(["bash", "-mc", f'"$0" -c "$1" {background}', sys.executable, code], "", tmp_path)
    assert (status, lines[0]) == (0, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "expected"), [("n\n", 2), ("y\n", 0)])
def test_a_process_at_a_terminal_asks_one_question_of_one_line(answer: str, expected: int, here: Path) -> None:
    status, lines = run((*DENSEKIT, *SCALED_UP), answer, here)
    assert status == expected
    assert len([line for line in lines if line.startswith(QUESTION)]) == 1
    assert (here / "run" / "result.json").exists() is (expected == 0)


@pytest.mark.slow
def test_a_process_refuses_a_batch_that_no_machine_holds(here: Path) -> None:
    status, lines = run((*DENSEKIT, *TOO_MUCH), "y\n", here)
    assert status == 2
    assert lines[-1].startswith("densekit: it needs about ")
    assert not (here / "runs").exists()
