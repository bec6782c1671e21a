"""`densekit doctor RUN`: whether a run that is killed here resumes to the same bits. It is tried, on copies."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from densekit.config import with_settings
from densekit.errors import BadData, Interrupted, ProofFailed
from densekit.folders import data_folder
from densekit.runs import run_folder
from densekit.training.checkpoint import read_checkpoint
from densekit.training.resume import resume_until

_STEPS = 6
_PATIENCE = 600.0  # seconds for these few steps


@dataclass(frozen=True)
class ResumeTest:
    """What was tried, and came out equal."""

    first_step: int
    """Of the run's last checkpoint, from which the rehearsal went on."""
    steps: int
    killed_at: int
    """The step that the killed process had saved."""
    seconds: float


def run_resume_test(run: str | Path, *, data_dir: str | Path | None = None, say: Callable[[str], None]) -> ResumeTest:
    """Trains a few steps of `run` in one go, and again with a SIGKILL in between, from its last checkpoint.

    In one process, also where several trained the run, which itself is only read. `say` hears what comes next. Raises
    ProofFailed, naming the files that differ; BadData or BadWeights for what is no run, or has no whole checkpoint.
    """
    run, started = Path(run), time.monotonic()
    recipe, last = run_folder.recipe_of(run), run / "checkpoints" / "last"
    progress = read_checkpoint(last).document["progress"]
    first = progress["step"]
    # As if it had more epochs: there are steps left in a run that is finished, also where an epoch is one step.
    epochs = max(recipe.epochs, progress["epoch"]) + _STEPS
    longer = {"epochs": epochs, "early_stopping.patience": None}
    recipe = with_settings(recipe, longer | {"checkpoint.every_steps": 1, "trackers": []})
    with TemporaryDirectory(prefix="densekit-doctor-") as folder:
        whole, cut = Path(folder, "whole"), Path(folder, "cut")
        for copy in (whole, cut):
            shutil.copytree(last.parent, copy / "checkpoints")
            run_folder.write_recipe(copy, recipe)
        say(f"training {_STEPS} steps from step {first}, undisturbed")
        _wait(_start(whole, first + _STEPS, data_dir))
        say("training them again, to be killed in between")
        killed_at = _kill(cut, first, data_dir)
        if not first <= killed_at < first + _STEPS:
            raise BadData(
                f"{run} trains too fast here to be killed in between; give it more images, or a larger network"
            )
        say(f"killed after step {killed_at}; resuming")
        _wait(_start(cut, first + _STEPS, data_dir))
        files = [copy / "checkpoints" / "last" for copy in (whole, cut)]
        for copy, each in zip((whole, cut), files, strict=True):
            if (step := read_checkpoint(each).document["progress"]["step"]) != first + _STEPS:  # stopped by a signal
                raise BadData(
                    f"the rehearsal of {run} proves nothing: its copy '{copy.name}' ended at step {step} instead of "
                    f"{first + _STEPS}; try it again, and let it come to its end"
                )
        differing = [
            name
            for name in ("model.safetensors", "state.safetensors")
            if len({(each / name).read_bytes() for each in files}) > 1
        ]
    if differing:
        raise ProofFailed(
            f"{run} does not resume exactly here: after {_STEPS} steps with a kill in between "
            f"{' and '.join(differing)} differ; please report it with the output of `densekit doctor`"
        )
    return ResumeTest(first, _STEPS, killed_at, time.monotonic() - started)


def _start(folder: Path, until: int, data_dir: str | Path | None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __name__, str(folder), str(until), str(data_folder(data_dir))]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        _, said = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise BadData(
            f"the rehearsal's {_STEPS} steps took more than {_PATIENCE:.0f} s; run it on more cores"
        ) from None
    if process.returncode:
        lines = said.strip().splitlines() or [f"it ended with status {process.returncode}"]
        raise BadData(f"the rehearsal could not train: {lines[-1]}")


def _kill(folder: Path, first: int, data_dir: str | Path | None) -> int:
    """Kills training as soon as it has saved a step or two; the step that is on disk then."""
    process = _start(folder, first + _STEPS, data_dir)
    last = folder / "checkpoints" / "last"
    until = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < until and _saved(last) < first + _STEPS // 3:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    return int(read_checkpoint(last).document["progress"]["step"])


def _saved(last: Path) -> int:
    try:
        return int(json.loads((last / "state.json").read_text(encoding="utf-8"))["progress"]["step"])
    except (OSError, ValueError):
        return -1  # it is being replaced


def main() -> None:
    """Goes on with a copy up to a step: FOLDER STEP DATA-DIR."""
    folder, step, data_dir = sys.argv[1:]
    with suppress(Interrupted):
        resume_until(Path(folder), int(step), data_dir, Console(quiet=True))


if __name__ == "__main__":
    main()
