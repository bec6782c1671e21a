"""Runs of a study side by side: a process each, as many at once as there is room for."""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from densekit import errors, strict_json
from densekit.child_process import thread_counts
from densekit.config import Recipe
from densekit.errors import BadData, DensekitError, Interrupted
from densekit.training.signals import catch_signals

_POLL = 0.1  # seconds
# Errors that are not made of a message alone; their bases mean the same exit status.
_SIMPLER = {"UnknownName": "InvalidInput", "BadImage": "BadData"}


@dataclass(frozen=True)
class Job:
    """A run that is to be brought to its end."""

    name: str
    recipe: Recipe
    run: Path
    log: Path
    data_dir: str | None

    def document(self) -> dict[str, Any]:
        """For the worker."""
        return {"run": str(self.run), "data_dir": self.data_dir, "recipe": self.recipe.model_dump(mode="json")}


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    seconds: float
    error: DensekitError | None


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[str]
    log: IO[str]
    place: int
    started: float = field(default_factory=time.monotonic)


def carry_out(
    jobs: Sequence[Job], *, places: Sequence[str], threads: int, done: Callable[[Outcome], None]
) -> list[Outcome]:
    """Runs `jobs` in this order, one at each of `places` at a time, and returns how they ended.

    A place is a CUDA device's number, or nothing for the CPU. One that fails keeps none of the others from running.
    Raises Interrupted after a signal, when all that were running have saved.
    """
    waiting = deque(jobs)
    running: list[_Running] = []
    outcomes: list[Outcome] = []
    free = list(range(len(places)))
    with catch_signals() as stop:
        try:
            told = False
            while running or (waiting and not stop.signal_number):
                while waiting and free and not stop.signal_number:
                    place = free.pop(0)
                    running.append(_start(waiting.popleft(), place, places[place], threads))
                if stop.signal_number and not told:
                    told = True
                    for each in running:
                        each.process.terminate()
                time.sleep(_POLL)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    free.append(each.place)
                    outcome = Outcome(each.job, time.monotonic() - each.started, _end(each))
                    outcomes.append(outcome)
                    if not (told and isinstance(outcome.error, Interrupted)):
                        done(outcome)
        finally:
            for each in running:  # whatever went wrong here: they save, and stop
                each.process.terminate()
                each.log.close()
        if stop.signal_number and (waiting or any(isinstance(o.error, Interrupted) for o in outcomes)):
            raise Interrupted("stopped and saved; the same command goes on", stop.signal_number)
    return outcomes


def _start(job: Job, place: int, device: str, threads: int) -> _Running:
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = job.log.open("a", encoding="utf-8")
    except OSError as error:
        raise BadData(f"cannot write to {job.log}: {error.strerror}; name another folder with --out") from error
    environment = os.environ | thread_counts(threads)
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    process = subprocess.Popen(
        [sys.executable, "-m", "densekit.study.run_worker"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # ctrl-C is for us, who tell them once
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, and its exit status says so
        process.stdin.write(strict_json.dumps(job.document()) + "\n")
        process.stdin.flush()  # and it stays open: see the worker
    return _Running(job, process, log, place)


def _end(running: _Running) -> DensekitError | None:
    """What the worker says went wrong, if anything."""
    process = running.process
    assert process.stdout is not None
    assert process.stdin is not None
    answer = process.stdout.read()
    process.stdout.close()
    with suppress(BrokenPipeError):
        process.stdin.close()
    running.log.close()
    if not process.returncode:
        return None
    try:
        said = json.loads(answer)
        kind = getattr(errors, _SIMPLER.get(said["type"], said["type"]))
        return Interrupted(said["message"], said["signal"]) if kind is Interrupted else kind(said["message"])
    except (ValueError, KeyError, AttributeError, TypeError):
        if process.returncode == -15:
            return Interrupted("stopped before it had begun", 15)
        how = f"by signal {-process.returncode}" if process.returncode < 0 else f"with status {process.returncode}"
        return DensekitError(f"its process ended {how}; what it said is in {running.job.log}")
