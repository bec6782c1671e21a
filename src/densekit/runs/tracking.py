"""A run's numbers, shown elsewhere too: TensorBoard, Weights & Biases, MLflow. They are guests; none stops training.

All of them are served by one thread of their own, one call after the other: a server that does not answer delays nobody
but them. One that fails is named once and left alone. What it missed it gets when the run goes on.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from densekit import atomic, strict_json
from densekit.config import Recipe
from densekit.distributed.process_group import DistributedContext
from densekit.errors import InvalidInput
from densekit.metrics.task import Result
from densekit.runs import run_folder
from densekit.runs.trackers import TRACKERS, Tracker

FILE = "trackers.json"
"""In the run folder: by tracker, the id of the run there, and the last epoch that it knows."""

_PATIENCE = 60.0  # seconds at the end of a run, for what is still to be sent


def require(names: Sequence[str]) -> None:
    """Raises InvalidInput, which names the extra, for a tracker whose package is not installed."""
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, such as wandb makes, is no package
            fix = f"pip install 'densekit[{name}]', or leave it out"
            raise InvalidInput(f"trackers={name} needs a package that is not installed; {fix}")


class Tracking:
    """What training talks to. Without trackers, and on all processes but rank 0, it does nothing."""

    def __init__(self, run: Path, recipe: Recipe, say: Callable[[str], None], done: int, *, active: bool) -> None:
        self._run = run
        self._recipe = recipe
        self._say = say
        self._known = _known(run)
        self._done = done
        self._rows = [row for row in run_folder.metrics(run) if row["epoch"] <= done]
        self._open: dict[str, Tracker] = {}
        self._given_up = False
        self._calls: queue.SimpleQueue[Callable[[str, Tracker], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="trackers", daemon=True)
        if active and recipe.trackers:
            self._thread.start()

    def row(self, row: Mapping[str, Any]) -> None:
        """After an epoch; trackers hear nothing of what is not defined for its images."""
        row = {key: value for key, value in row.items() if value is not None}

        def send(name: str, tracker: Tracker) -> None:
            tracker.row(row)
            self._remember(name, epoch=row["epoch"])

        self._calls.put(send)

    def result(self, result: Result, report: Path) -> None:
        """After the last one."""
        self._calls.put(lambda _, tracker: tracker.result(result, report))

    def close(self, *, finished: bool) -> None:
        """Waits a while for what is still to be sent."""
        if self._thread.is_alive():
            self._calls.put(lambda _, tracker: tracker.close(finished=finished))
            self._calls.put(None)
            self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            waiting, self._given_up = " and ".join(self._open), True
            self._say(
                f"left alone, as {_PATIENCE:.0f} s were not enough to take all: {waiting}; the run has everything in "
                f"{self._run / 'metrics.jsonl'}"
            )

    def _serve(self) -> None:
        self._open = {name: TRACKERS[name]() for name in self._recipe.trackers}
        call: Callable[[str, Tracker], None] | None = self._begin
        while call is not None:
            for name, tracker in list(self._open.items()):
                self._try(name, tracker, call)
            call = self._calls.get()

    def _begin(self, name: str, tracker: Tracker) -> None:
        known = self._known.get(name, {})
        has = min(known.get("epoch", 0), self._done)
        self._remember(name, id=tracker.start(self._run, self._recipe, known.get("id"), has), epoch=has)
        for row in self._rows:
            if row["epoch"] > has:
                tracker.row(row)
                self._remember(name, epoch=row["epoch"])

    def _try(self, name: str, tracker: Tracker, call: Callable[[str, Tracker], None]) -> None:
        try:
            call(name, tracker)
        except Exception as error:  # whatever it is, it is not training's business
            self._open.pop(name, None)
            if self._given_up:
                return
            reason = " ".join(str(error).split())[:200]
            self._say(f"{name} fails and is left alone, training goes on: {type(error).__name__}: {reason}")

    def _remember(self, name: str, **facts: Any) -> None:
        self._known[name] = self._known.get(name, {}) | facts
        atomic.write(self._run / FILE, strict_json.dumps(self._known, indent=2) + "\n")


@contextmanager
def tracked(
    run: Path, recipe: Recipe, world: DistributedContext, say: Callable[[str], None], done: int
) -> Iterator[Tracking]:
    """Tracks a run that has `done` epochs already."""
    tracking = Tracking(run, recipe, say, done, active=world.is_main)
    try:
        yield tracking
    except BaseException:
        tracking.close(finished=False)
        raise
    tracking.close(finished=True)


def _known(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
