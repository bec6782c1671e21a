"""Decoding processes that end, or find no shared memory, end the work within seconds, in one line with a way on."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import densekit
from densekit.data import loader, worker_processes
from densekit.errors import WorkerLost
from tests.conftest import write_photos
from tests.faults.command import ENVIRONMENT, children_of, finish, start, state_of

NET = "densenet_bc_10_4"
SMALL: dict[str, Any] = {"data.image_size": 16, "batch_size": 4, "plan": "concat"}
WORDS = r"decoding failed: .*/dev/shm.*--shm-size.*--set data\.workers=0"


@pytest.fixture
def photos(tmp_path: Path) -> str:
    return str(write_photos(tmp_path / "photos", count=12))


def killed(*_: object) -> None:
    """As the system does when memory is scarce, but never to the process that trains."""
    os.kill(os.getpid(), signal.SIGKILL)


def full(*_: object) -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


def fails(patch: pytest.MonkeyPatch, fault: Any) -> None:
    """In processes that are forked for decoding."""
    parent, collate = os.getpid(), loader._collate

    def collated(rows: Any) -> Any:
        if os.getpid() != parent:
            fault()
        return collate(rows)

    patch.setattr(loader, "_collate", collated)


@pytest.mark.parametrize("fault", [killed, full])
@pytest.mark.parametrize("plan", ["concat", "auto"])
def test_training_says_how_to_go_on(plan: str, fault: Any, photos: str, tmp_path: Path) -> None:
    """Where plans are measured, too; then there is no run yet."""
    settings = SMALL | {"data.workers": 2, "plan": plan}
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        fails(patch, fault)
        with pytest.raises(WorkerLost, match=WORDS) as lost:
            densekit.train(photos, model=NET, epochs=1, out=tmp_path / "run", settings=settings)
    assert time.monotonic() - started < 60
    if (tmp_path / "run/config.yaml").exists():
        assert f"densekit resume {tmp_path / 'run'}" in str(lost.value)
        whole = densekit.train(photos, model=NET, epochs=1, out=tmp_path / "whole", settings=SMALL).folder
        densekit.resume(tmp_path / "run", settings={"data.workers": 0})
        assert state_of(tmp_path / "run") == state_of(whole)


@pytest.mark.parametrize("ten_crop", [False, True])
def test_so_does_an_evaluation(ten_crop: bool, photos: str, tmp_path: Path) -> None:
    run = densekit.train(photos, model=NET, epochs=1, out=tmp_path / "run", settings=SMALL)
    with pytest.MonkeyPatch.context() as patch:
        fails(patch, killed)
        with pytest.raises(WorkerLost, match=WORDS):
            densekit.evaluate(run.folder, settings={"data.workers": 1}, ten_crop=ten_crop)


def test_other_errors_of_torch_stay_what_they_are(photos: str, tmp_path: Path) -> None:
    before = set(children_of(os.getpid()))

    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    with pytest.MonkeyPatch.context() as patch:
        fails(patch, broken)
        with pytest.raises(RuntimeError, match="something else") as failed:
            densekit.train(photos, model=NET, epochs=1, out=tmp_path / "run", settings=SMALL | {"data.workers": 1})
    assert failed.tb is not None  # whose frames keep what they hold, but no process that its parent would wait for
    assert set(children_of(os.getpid())) <= before


@pytest.mark.slow
def test_a_process_that_hangs_when_it_is_forked_is_replaced(photos: str, tmp_path: Path) -> None:
    """As one does that was forked while another thread held a lock."""
    parent, prepared, calls = os.getpid(), worker_processes._prepare_worker, tmp_path / "calls"

    def hangs_once(*given: Any) -> None:
        with calls.open("a") as file:
            file.write(".")
        if calls.stat().st_size == 1 and os.getpid() != parent:
            time.sleep(1000)
        prepared(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_processes, "_prepare_worker", hangs_once)
        patch.setattr(worker_processes, "_START", 3.0)
        run = densekit.train(photos, model=NET, epochs=1, out=tmp_path / "run", settings=SMALL | {"data.workers": 1})
    whole = densekit.train(photos, model=NET, epochs=1, out=tmp_path / "whole", settings=SMALL)
    assert state_of(run.folder) == state_of(whole.folder)


_STUCK = """
import sys, time
import densekit
from densekit.data import loader

loader._collate = lambda rows: time.sleep(1000)
densekit.train(sys.argv[1], model="densenet_bc_10_4", epochs=1, out="run",
               settings={"data.image_size": 16, "batch_size": 4, "data.workers": 2, "plan": "concat"})
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_trainer_whatever_they_wait_for(photos: str, tmp_path: Path) -> None:
    """Those of a killed process that went on would hold its connections open, and others would wait for it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _STUCK, photos], cwd=tmp_path, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE
    )
    try:
        while len(workers := children_of(process.pid)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
    process.communicate(timeout=30)  # they hold its standard output
    assert not any(Path(f"/proc/{worker}/cwd").exists() for worker in workers)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_worker_ends_the_command_with_status_3(ranks: int, photos: str, tmp_path: Path) -> None:
    words = ("train", photos, "--model", NET, "--epochs", "2000", "--image-size", "16", "--out", "run")
    settings = ("--set", "data.workers=1", "--set", "batch_size=4", "--set", "plan=concat")
    process = start(*words, *settings, folder=tmp_path, ranks=ranks)
    until = time.monotonic() + 200
    while not (tmp_path / "run/metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.05)
    trainers = [process.pid] if ranks == 1 else children_of(process.pid)
    while not (found := [worker for trainer in trainers for worker in children_of(trainer)]):
        time.sleep(0.001)
    os.kill(found[0], signal.SIGKILL)
    started = time.monotonic()
    _, err = finish(process, timeout=100)
    assert time.monotonic() - started < 60
    assert process.returncode == (3 if ranks == 1 else 1), err
    assert err.count("densekit: decoding failed") == 1
    assert shlex.join(["densekit", "resume", "run"]) in err
