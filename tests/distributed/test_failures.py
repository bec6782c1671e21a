"""A process or a host of a run is lost: the others notice, say so, and nothing that was saved is."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.command import ENVIRONMENT, command, finish, rows_of, run, start, state_of

pytestmark = pytest.mark.slow

LONG_VALIDATION = ("--set", "data.val_fraction=0.8", "--set", "batch_size=100")
ARGUMENTS = (
    "train", "digits", "--model", "densenet_bc_10_4", "--epochs", "6", "--out", "run",
    "--set", "data.limit=600", "--set", "batch_size=32", "--set", "checkpoint.every_steps=5",
)  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Until it holds. Fails after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_torchrun_restarts_and_the_run_finishes_as_if_nothing_had_been(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    run(*ARGUMENTS, folder=tmp_path / "whole", ranks=2)
    process = start(*ARGUMENTS, folder=tmp_path, ranks=2, restarts=2)
    wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[1]), signal.SIGKILL)
    _, err = finish(process, timeout=120)
    assert process.returncode == 0, err
    assert state_of(tmp_path / "run") == state_of(tmp_path / "whole" / "run")
    # What a reader of the log learns: that it went on, from where, and why.
    assert "going on in epoch" in err
    assert "after restart 1, as a process had ended" in err
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][-1] == "finish"
    assert any(event["event"] == "resume" and event["restarts"] == 1 for event in events)


@pytest.mark.parametrize("out", [("--out", "run"), ()])
def test_torchrun_restarts_a_single_process_too(out: tuple[str, ...], tmp_path: Path) -> None:
    words = tuple(word for word in ARGUMENTS if word not in ("--out", "run"))
    (tmp_path / "whole").mkdir()
    run(*words, "--out", "run", folder=tmp_path / "whole", restarts=1)
    process = start(*words, *out, folder=tmp_path, restarts=1)
    folder = tmp_path / "run" if out else tmp_path / "runs" / "digits-densenet_bc_10_4"
    wait_for((folder / "metrics.jsonl").exists)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    _, err = finish(process, timeout=120)
    assert process.returncode == 0, err
    assert "after restart 1, as a process had ended" in err
    assert state_of(folder) == state_of(tmp_path / "whole" / "run")
    assert out or list((tmp_path / "runs").iterdir()) == [folder], "a second run was begun"


def test_without_restarts_the_others_end_soon_and_say_why(tmp_path: Path) -> None:
    process = start(*ARGUMENTS, folder=tmp_path, ranks=2)
    wait_for((tmp_path / "run" / "metrics.jsonl").exists)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[1]), signal.SIGKILL)
    started = time.monotonic()
    _, err = finish(process, timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode != 0
    assert "SIGKILL" in err or "Signal 9" in err
    run("resume", "run", folder=tmp_path, ranks=2)


def test_without_their_torchrun_the_processes_end_and_the_run_can_go_on(tmp_path: Path) -> None:
    """It holds the store through which they hear of each other."""
    (tmp_path / "whole").mkdir()
    words = [word.replace("digits", "synthetic:8x8x1:4:20000").replace("=600", "=null") for word in ARGUMENTS]
    run(*words[:5], "1", *words[6:], folder=tmp_path / "whole", ranks=2)
    process = start(*words[:5], "1", *words[6:], folder=tmp_path, ranks=2)
    wait_for((tmp_path / "run" / "checkpoints" / "last" / "state.json").exists)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    wait_for(lambda: not any(map(_runs, workers)), 60)
    process.communicate(timeout=10)
    run("resume", "run", folder=tmp_path, ranks=2)
    assert state_of(tmp_path / "run") == state_of(tmp_path / "whole" / "run")


def test_a_stop_during_validation_comes_back_to_it(tmp_path: Path) -> None:
    words = ("train", "synthetic:16x16x1:4:6000", *ARGUMENTS[2:4], "--epochs", "2", "--out", "run", *LONG_VALIDATION)
    (tmp_path / "whole").mkdir()
    run(*words, folder=tmp_path / "whole", ranks=2)
    process = start(*words, folder=tmp_path, ranks=2)
    last = tmp_path / "run" / "checkpoints" / "last" / "state.json"
    steps = int(rows_of(tmp_path / "whole" / "run")[0]["step"])
    wait_for(lambda: progress_of(last).get("step_in_epoch") == steps)  # saved for the time of the validation
    process.terminate()
    _, err = finish(process, timeout=60)
    assert process.returncode != 0, err
    run("resume", "run", folder=tmp_path, ranks=2)
    assert state_of(tmp_path / "run") == state_of(tmp_path / "whole" / "run")


def progress_of(state: Path) -> dict[str, int]:
    try:
        return json.loads(state.read_text())["progress"]
    except OSError:
        return {}  # it is being replaced


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces, host-a with address 10.77.0.1 and host-b with 10.77.0.2, and a cable between them."""
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("needs root and iproute2 for network namespaces")
    names = [f"densekit-{os.getpid()}-{letter}" for letter in "ab"]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(
            ["ip", "-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1]],
            check=True,
        )
        for number, name in enumerate(names, start=1):
            for words in (f"addr add 10.77.0.{number}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def on_host(name: str, folder: Path, *words: str, restarts: int = 0) -> subprocess.Popen[str]:
    """One of two hosts: one process, rendezvous on the first host."""
    launcher = command(*words, ranks=2, restarts=restarts)
    at = launcher.index("--standalone")
    first = name.endswith("a")
    launcher[at : at + 2] = [
        "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29511", "--rdzv-id=test",
        f"--rdzv-conf=is_host={int(first)}", f"--local-addr=10.77.0.{1 if first else 2}",
    ]  # fmt: skip
    environment = os.environ | ENVIRONMENT | {"GLOO_SOCKET_IFNAME": "cable"}
    return subprocess.Popen(
        ["ip", "netns", "exec", name, *launcher],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_two_hosts_train_together_and_end_when_one_is_cut_off(two_hosts: list[str], tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    run(*ARGUMENTS, folder=tmp_path / "whole", ranks=2)
    arguments = [word.replace("every_steps=5", "every_steps=1") for word in ARGUMENTS]
    processes = [on_host(name, tmp_path, *arguments) for name in two_hosts]
    try:
        wait_for((tmp_path / "run" / "metrics.jsonl").exists, 120)
        workers = [Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split() for p in processes]
        assert [len(each) for each in workers] == [1, 1]
        subprocess.run(["ip", "-n", two_hosts[1], "link", "set", "cable", "down"], check=True)
        wait_for(lambda: all(p.poll() is not None for p in processes), 60)
        assert not any(_runs(pid) for each in workers for pid in each)
    finally:
        for process in processes:
            process.kill()
        said = [process.communicate()[1] for process in processes]
    assert "nothing was heard of rank 1" in said[0]
    # Two processes, wherever they are.
    run("resume", "run", folder=tmp_path, ranks=2)
    assert state_of(tmp_path / "run")["model.safetensors"] == state_of(tmp_path / "whole" / "run")["model.safetensors"]


def test_two_hosts_start_again_when_a_process_of_one_is_killed(two_hosts: list[str], tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    run(*ARGUMENTS, folder=tmp_path / "whole", ranks=2)
    processes = [on_host(name, tmp_path, *ARGUMENTS, restarts=2) for name in two_hosts]
    try:
        wait_for((tmp_path / "run" / "metrics.jsonl").exists, 120)
        second = processes[1].pid
        os.kill(int(Path(f"/proc/{second}/task/{second}/children").read_text().split()[0]), signal.SIGKILL)
        said = [process.communicate(timeout=180)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert "going on in epoch" in said[0]  # each host counts its own restarts, and the first had none
    assert state_of(tmp_path / "run") == state_of(tmp_path / "whole" / "run")
