"""densekit as its users start it, alone or by torchrun, and what a run leaves behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import densekit
from densekit.errors import Interrupted
from densekit.training import session
from densekit.training.trainer import fit

# What torchrun itself warns about, and one thread a process: tests start more of these than there are cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def command(*words: str | Path, ranks: int = 1, restarts: int = 0) -> list[str]:
    """The command line of `densekit WORDS`, on that many processes of this host; by torchrun if it is to restart."""
    launcher = [
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={restarts}",
        "-m",
    ]
    return [sys.executable, "-m", *(launcher if ranks > 1 or restarts else ()), "densekit", *map(str, words)]


def start(
    *words: str | Path, folder: Path, ranks: int = 1, restarts: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Started in `folder`, in a process group of its own; output goes to pipes."""
    return subprocess.Popen(
        command(*words, ranks=ranks, restarts=restarts),
        cwd=folder,
        env=os.environ | ENVIRONMENT | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def train_until(step: int, data: str | Path, **words: Any) -> str:
    """`densekit.train(data, **words)`, told to stop after that step, as by a signal; what it says then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "fit", lambda *given, **named: fit(*given, **named | {"until": step}))
        with pytest.raises(Interrupted) as stopped:
            densekit.train(data, **words)
    return str(stopped.value)


def run(*words: str | Path, folder: Path, ranks: int = 1, status: int = 0, restarts: int = 0) -> tuple[str, str]:
    """To its end, which is to be `status`: (standard output, standard error)."""
    process = start(*words, folder=folder, ranks=ranks, restarts=restarts)
    out, err = finish(process, timeout=240)
    assert process.returncode == status, err
    return out, err


def finish(process: subprocess.Popen[str], timeout: float) -> tuple[str, str]:
    """(standard output, standard error) of what `start` started; a test that waits longer fails with all that it said.

    Also while only a child of it still holds the pipes. Nothing of the process group outlives this.
    """
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        listed = subprocess.run(["ps", "-eo", "pid,ppid,stat,wchan:20,args"], capture_output=True, text=True).stdout
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=30)
        still = "\n".join(line for line in listed.splitlines() if "densekit" in line)
        pytest.fail(f"not ended after {timeout} s\n{still}\nstandard output:\n{out}\nstandard error:\n{err}")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The epochs in RUN/metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def children_of(pid: int) -> list[int]:
    """The process ids of a process's children, on Linux."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state_of(folder: Path) -> dict[str, object]:
    """All that a run has to end in: hashes of weights and of the optimiser's state, and the metrics, without times."""
    last = folder / "checkpoints" / "last"
    files = {name: _sha256(last / name) for name in ("model.safetensors", "state.safetensors")}
    result = json.loads((folder / "result.json").read_text())
    timeless = [{key: value for key, value in row.items() if key != "seconds"} for row in (*rows_of(folder), result)]
    return files | {"metrics": timeless, "best": _sha256(folder / "checkpoints" / "best" / "model.safetensors")}


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
