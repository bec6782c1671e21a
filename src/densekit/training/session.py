"""One session of a run, from its first or its last checkpoint to the result and the report."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from densekit.data.worker_processes import worker_lost
from densekit.distributed.process_group import DistributedContext, restarts
from densekit.errors import DensekitError, WorkerLost
from densekit.folders import data_folder
from densekit.precision import repeatable
from densekit.runs import run_folder
from densekit.runs.tracking import tracked
from densekit.terminal import Display
from densekit.training.checkpoint import Checkpoint
from densekit.training.report_page import write_report
from densekit.training.run import Run
from densekit.training.setup import TrainContext
from densekit.training.trainer import fit


def start_facts(world: DistributedContext, data_dir: str | Path | None) -> dict[str, Any]:
    """What the events say of how these processes were started."""
    return {
        "processes": world.size,
        "launch": world.launch,
        "data_dir": str(data_folder(data_dir)) if data_dir else None,
    }


def train_and_report(
    prepared: TrainContext, folder: Path, display: Display, checkpoint: Checkpoint | None, until: int | None = None
) -> Run:
    """Trains to the end, writes result and report, and notes in the run's events how it ended.

    Args:
        prepared: data, network and recipe.
        folder: the run's, which exists.
        display: where progress is shown.
        checkpoint: where training goes on. None: from the start.
        until: the step after which it stops, as after a signal. None: at its end.

    Raises:
        Diverged: the loss did, and no rollback is left.
        Interrupted: after a signal, with the state saved.
        BadData: the disk is full, or too many images cannot be read.
        WorkerLost: a process that decodes images has died.
    """
    world = prepared.world
    if world.is_main:
        with run_folder.writing(folder):
            run_folder.forget_result(folder)
    done = 0
    if checkpoint is not None:
        progress = checkpoint.document["progress"]
        done = progress["epoch"]
        again = f" after restart {restarts()}, as a process had ended" if restarts() else ""
        display.log(f"going on in epoch {done + 1} after step {progress['step']}{again}")
    with repeatable(prepared.device), tracked(folder, prepared.recipe, world, display.log, done) as tracking:
        try:
            with _explained(folder):
                result, records = fit(prepared, folder, display, checkpoint=checkpoint, until=until, tracking=tracking)
        except DensekitError as error:
            if world.is_main:
                with suppress(DensekitError):  # a full disk must not hide what happened
                    run_folder.note(folder, type(error).__name__.lower(), reason=str(error))
            raise
        finally:
            if world.is_main:
                with suppress(DensekitError), run_folder.writing(folder):
                    run_folder.write_skipped(folder, prepared.data)
        if world.is_main:
            with run_folder.writing(folder):
                report = write_report(folder, prepared, result, records)
                run_folder.write_result(folder, result)  # last: it says that all is there
                run_folder.note(folder, "finish", **{prepared.task.metric: result.score})
            tracking.result(result, report)
    return Run(folder, result)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (WorkerLost, RuntimeError) as error:
        # torch's handler of SIGCHLD raises wherever the process is at that moment, not only where it reads.
        lost = error if isinstance(error, WorkerLost) else worker_lost(error)
        if lost is None:
            raise
        raise WorkerLost(
            f"{lost}; the last checkpoint is whole, go on from it with: {run_folder.resuming(folder)}"
        ) from error
