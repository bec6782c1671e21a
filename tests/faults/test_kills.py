"""Whatever ends a run, and at whatever moment: going on from there ends where the undisturbed run ended, to the bit."""

import itertools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import write_photos
from tests.faults.command import children_of, finish, run, start, state_of

# Dropout and the average of the weights: everything that has a state. Three steps between checkpoints, so that most
# kills lose some.
ARGUMENTS = (
    "train", "digits", "--model", "densenet_bc_10_4", "--epochs", "5", "--out", "run",
    "--set", "model.dropout_rate=0.2", "--set", "data.limit=600", "--set", "batch_size=32",
    "--set", "checkpoint.every_steps=3", "--set", "select=best",
)  # fmt: skip


def kill(process: subprocess.Popen[str], number: int, chance: random.Random) -> None:
    """SIGTERM as a person or Slurm sends it; SIGKILL to one process, or to all of them at once, like a power cut."""
    workers = children_of(process.pid)
    if number == signal.SIGTERM or not workers:
        process.send_signal(number)
    elif chance.random() < 0.5:
        os.kill(chance.choice(workers), number)
    else:
        for pid in (process.pid, *workers):
            os.kill(pid, number)


def survive(folder: Path, ranks: int, number: int, kills: int, arguments: tuple[str, ...] = ARGUMENTS) -> None:
    """Kills a run and resumes it, again and again, and compares each that comes to its end; until `kills` are done."""
    (folder / "whole").mkdir()
    started = time.monotonic()
    run(*arguments, folder=folder / "whole", ranks=ranks)
    length = time.monotonic() - started
    expected = state_of(folder / "whole" / "run")
    chance = random.Random(ranks * 100 + number)  # the same moments each time, as far as a clock can tell
    done = 0
    for here in map(folder.joinpath, map(str, itertools.count())):
        here.mkdir()
        words = arguments
        ended = False
        while not ended:
            process = start(*words, folder=here, ranks=ranks)
            killed = False
            try:
                process.wait(chance.uniform(0.3, 1.0) * length if done < kills else 240)
            except subprocess.TimeoutExpired:
                kill(process, number, chance)
                done, killed = done + 1, True
            _, err = finish(process, timeout=120)
            ended = process.returncode == 0
            assert ended or killed, err
            # A run that was killed before it had a folder is none.
            words = ("resume", "run") if (here / "run" / "config.yaml").exists() else arguments
        assert state_of(here / "run") == expected, f"after kill {done}"
        if done >= kills:
            return


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_to_the_same_bits(number: int, tmp_path: Path) -> None:
    survive(tmp_path, 1, number, 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_processes_add_up_alike_after_a_kill(tmp_path: Path) -> None:
    """From three on, a sum depends on the order of its terms."""
    survive(tmp_path, 3, signal.SIGKILL, 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("ranks", "number"), [(2, signal.SIGKILL), (1, signal.SIGTERM)])
def test_so_does_the_modern_recipe_on_files(ranks: int, number: int, tmp_path: Path) -> None:
    """AdamW, half precision with a scaled loss, mixing, policies, resizing, and processes that decode."""
    photos = write_photos(tmp_path / "photos", count=60)
    arguments = (
        "train", str(photos), "--model", "densenet_bc_10_4", "--recipe", "modern", "--epochs", "4", "--out", "run",
        "--set", "optimizer.name=adamw", "--set", "optimizer.lr=0.001", "--set", "precision=float16",
        "--set", "resize=[[0.0, 12], [0.5, 16]]", "--image-size", "16", "--set", "data.workers=2",
        "--set", "batch_size=12", "--set", "checkpoint.every_steps=2", "--set", "accumulate=2",
    )  # fmt: skip
    survive(tmp_path, ranks, number, 4, arguments)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("ranks", [1, 2])
def test_so_does_one_that_is_killed_at_many_moments(ranks: int, number: int, tmp_path: Path) -> None:
    """Fifty-two in all."""
    survive(tmp_path, ranks, number, 13)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_early_stopping_ends_a_killed_run_at_the_same_epoch(ranks: int, tmp_path: Path) -> None:
    """With balanced sampling, which draws an order of its own for each epoch."""
    arguments = (
        "train", "digits", "--model", "densenet_bc_10_4", "--epochs", "30", "--out", "run",
        "--set", "data.limit=300", "--set", "batch_size=40", "--set", "ema.decay=0", "--set", "optimizer.lr=0.5",
        "--set", "early_stopping.patience=2", "--set", "sampling=balanced", "--set", "checkpoint.every_steps=3",
    )  # fmt: skip
    survive(tmp_path, ranks, signal.SIGKILL, 2, arguments)
    assert len((tmp_path / "whole" / "run" / "metrics.jsonl").read_text().splitlines()) < 30
