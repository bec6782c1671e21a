"""`densekit resume` as a function."""

import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit import atomic, threads
from densekit.config import Recipe, with_settings
from densekit.data.sources.registry import missing
from densekit.default_dtype import float32_default
from densekit.distributed.process_group import ALONE, DistributedContext, init_distributed, restarts
from densekit.errors import BadData, Diverged, InvalidInput, ProofFailed
from densekit.folders import data_folder
from densekit.metrics.task import Result
from densekit.models.cost import cost_of
from densekit.runs import run_folder
from densekit.runs.tracking import require
from densekit.terminal import Display, display_of
from densekit.training import resume_check
from densekit.training.checkpoint import Checkpoint, read_checkpoint, shapes_differ
from densekit.training.early_stopping import is_finished
from densekit.training.run import Run
from densekit.training.session import start_facts, train_and_report
from densekit.training.setup import TrainContext, absolute_paths, prepare


def _held(folder: Path, world: DistributedContext) -> AbstractContextManager[None]:
    """For this process, if it is the one that writes, and there is a run."""
    return run_folder.held(folder) if world.is_main and (folder / "config.yaml").exists() else nullcontext()


@float32_default()
def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    data_dir: str | Path | None = None,
    accept_changes: bool = False,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Run:
    """Resume a run from its last checkpoint; a finished run is returned as it is.

    Changed versions, threads, kernels or plan are reported; the result then differs by rounding. A changed number of
    processes is reported too, with the settings for which that is a different training.

    Args:
        run: the run folder.
        epochs: a new, larger total. None: the recipe's.
        data_dir: where data sets are kept. None: where they were.
        accept_changes: resume even though the recipe or the images have changed.
        settings: dotted keys that change the recipe. data.max_bad, data.workers, checkpoint.*, divergence.rollbacks,
            early_stopping.*, trackers, threshold, plan, kernels and device may change without `accept_changes`.
        console: what to write to. None: standard error.

    Returns:
        The run and its result.

    Raises:
        ProofFailed: recipe or images are not those of the checkpoint.
        InvalidInput: settings that do not exist, or fewer epochs.
        BadData: data that are missing or unusable.
        BadWeights: a damaged checkpoint.
        Diverged: the loss did, and no rollback is left.
        Interrupted: after ctrl-C, with the state saved.
    """
    with init_distributed() as world:
        changed = dict(settings or {}) | ({"epochs": epochs} if epochs is not None else {})
        return resume_run(Path(run), world, changed, data_dir, console, accept_changes=accept_changes)


@float32_default()
def resume_until(run: Path, step: int, data_dir: str | Path | None, console: Console) -> None:
    """Goes on with `run` in this process alone and stops after that step, as a signal would: raises Interrupted."""
    resume_run(run, ALONE, {}, data_dir, console, accept_changes=False, until=step)


def resume_run(
    folder: Path,
    world: DistributedContext,
    settings: Mapping[str, Any],
    data_dir: str | Path | None,
    console: Console | None,
    *,
    accept_changes: bool,
    until: int | None = None,
) -> Run:
    """`resume`, among the processes of `world`.

    Args:
        folder: the run's.
        world: the processes that train it.
        settings: changes of the recipe, by dotted key.
        data_dir: where data sets are kept. None: where the run found them.
        console: what to write to. None: standard error.
        accept_changes: go on although recipe or images are not those of the checkpoint.
        until: the step after which it stops, as after a signal. None: at its end.

    Raises:
        ProofFailed: recipe, images or network are not those of the checkpoint.
        InvalidInput: fewer epochs than before.
        BadData: images that are not where they were, or a damaged run.
    """
    with _held(folder, world):
        recipe, checkpoint, result = world.run_on_main(lambda: _stored(folder))
        before, recipe = recipe, absolute_paths(with_settings(recipe, settings))
        if recipe.epochs < before.epochs:
            raise InvalidInput(
                f"--epochs {recipe.epochs} is less than the {before.epochs} of {folder}; a run cannot shrink"
            )
        world.run_on_main(lambda: require(recipe.trackers))
        display = display_of(console, leads=world.is_main)
        if result is not None and checkpoint is not None and is_finished(recipe, checkpoint.document["progress"]):
            longer = f"--epochs {recipe.epochs + 10}"
            if result.early_stop is not None:
                longer = f"--set early_stopping.patience={result.early_stop['patience'] + 10}"
            display.log(f"{folder} is finished; to train it longer: {run_folder.resuming(folder)} {longer}")
            return Run(folder, result)
        data_dir = data_dir or world.run_on_main(lambda: run_folder.data_dir_of(folder))
        _require_there(recipe, folder)
        prepared = prepare(recipe, data_folder(data_dir), world, start=checkpoint is None, phase=display.phase)
        if checkpoint is None:
            display.log(f"{folder} has no checkpoint yet; training starts anew")
            _record(folder, prepared)
            with threads.suitable(cost_of(prepared.recipe.model).macs, recipe.batch_size):
                return train_and_report(prepared, folder, display, None)
        then = checkpoint.document["made_by"]
        with threads.exactly(then["environment"]["threads"] if prepared.device.type == "cpu" else None):
            _require_same_network(checkpoint, prepared, folder)
            changes = resume_check.changes(then, resume_check.fingerprint_of(prepared))
            _compare(changes, folder, display, accept=accept_changes)
            if world.is_main:
                facts = start_facts(world, data_dir) | {"restarts": restarts(), "changes": changes.everything}
                run_folder.note(folder, "resume", **facts)
            _record(folder, prepared)
            return train_and_report(prepared, folder, display, checkpoint, until)


def _require_there(recipe: Recipe, folder: Path) -> None:
    """Raises BadData where the images of a run are no longer where they were."""
    if (gone := missing(recipe.data)) is not None:
        setting, path = gone
        raise BadData(
            f"{path}, which {folder} is trained on, is not there; put it back, or name its new place: "
            f"{run_folder.resuming(folder)} --set {setting}NEW"
        )


def _record(folder: Path, prepared: TrainContext) -> None:
    if prepared.world.is_main:
        with run_folder.writing(folder):
            run_folder.write_recipe(folder, prepared.recipe)


def _stored(folder: Path) -> tuple[Recipe, Checkpoint | None, Result | None]:
    recipe = run_folder.recipe_of(folder)
    event = run_folder.last_event(folder)
    if restarts() and event.get("event") == Diverged.__name__.lower():
        raise Diverged(event["reason"])  # as it would again: torchrun starts anew whatever fails
    last = folder / "checkpoints" / "last"
    for name in ("last", "best"):
        atomic.recover(folder / "checkpoints" / name)
    return recipe, read_checkpoint(last) if last.exists() else None, run_folder.result_of(folder)


def _require_same_network(checkpoint: Checkpoint, prepared: TrainContext, folder: Path) -> None:
    """Raises ProofFailed where the weights fit no longer: what --accept-changes cannot help with."""
    before, now = checkpoint.classes, prepared.data.classes
    if before is not None and before != now:
        gone, new = ([name for name in names if name not in others] for names, others in ((before, now), (now, before)))
        told = [f"new: {', '.join(new[:5])}"] if new else []
        told += [f"gone: {', '.join(gone[:5])}"] if gone else []
        what = f"the classes have changed ({'; '.join(told) or 'their order'})"
    elif differing := shapes_differ(checkpoint, prepared.model):
        what = f"the network has changed ({differing})"
    else:
        return
    data = prepared.recipe.data.source
    raise ProofFailed(
        f"{folder} cannot go on: {what}, so its weights are those of another network; put that back, or train a new "
        f"run that starts from them: {shlex.join(['densekit', 'train', data, '--init', str(folder)])}"
    )


def _compare(changes: resume_check.Changes, folder: Path, display: Display, *, accept: bool) -> None:
    """Says what has changed since the checkpoint was written. Raises ProofFailed for what makes it another run."""
    other = (*changes.recipe, *changes.data)
    if other and not accept:
        raise ProofFailed(
            f"{folder} cannot go on as the same run, since these have changed: {'; '.join(other)}; put them back, or "
            "go on with what is there now: --accept-changes"
        )
    if changes.execution:
        display.log(f"not the same to the last bit as without a stop, for: {'; '.join(changes.execution)}")
    if changes.division:
        display.log(
            "from here on another training, not only other rounding: batch statistics or draws are over each process's "
            f"own images, with {'; '.join(changes.division)}"
        )
