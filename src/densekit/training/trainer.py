"""Training: one visible loop. What changes is in TrainState, what does not in the recipe."""

import shutil
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densekit import atomic, ops, signal_watch
from densekit.config import Recipe
from densekit.data.sets import groups_of
from densekit.distributed.process_group import DistributedContext
from densekit.errors import Diverged, Interrupted, NotFinite
from densekit.metrics.evaluation_loop import evaluate
from densekit.metrics.intervals import with_intervals
from densekit.metrics.multi_label import MultiLabelRecords
from densekit.metrics.task import Records, Result
from densekit.precision import scaler_for
from densekit.runs import run_folder
from densekit.runs.tracking import Tracking
from densekit.training import allocator, loss_growth
from densekit.training.callbacks import TrainingCallback
from densekit.training.checkpoint import Checkpoint, read_checkpoint, restore_checkpoint
from densekit.training.early_stopping import early_stop
from densekit.training.ema import average_of
from densekit.training.nonfinite import diverged, fault_of_outputs, fault_of_step
from densekit.training.optimizer import optimizer_for
from densekit.training.run_checkpoints import VALIDATED, card_for, require_finite, save, save_unvalidated
from densekit.training.schedule import last_rate, rate_at
from densekit.training.setup import TrainContext
from densekit.training.signals import Stop, catch_signals
from densekit.training.state import Progress, Totals, TrainState
from densekit.training.step import is_whole, pieces_of, share_failures, train_step
from densekit.weights import read_card


def fit(
    prepared: TrainContext,
    run: Path,
    callback: TrainingCallback,
    *,
    checkpoint: Checkpoint | None = None,
    until: int | None = None,
    tracking: Tracking | None = None,
) -> tuple[Result, Records]:
    """Trains from the start, or from `checkpoint`, to the recipe's last epoch or step `until`, and writes `run`.

    Early stopping may end it before.

    Returns the result on the reported split. Raises Diverged where the loss, the weights or the outputs are not finite,
    Interrupted after a signal, with the state saved, and BadData where the disk is full.
    """
    recipe, world = prepared.recipe, prepared.world
    state = start(prepared)
    if checkpoint is not None:
        restore_checkpoint(checkpoint, state, run / "checkpoints" / "last")
        prepared.data.skipped.restore(checkpoint.document["skipped"])
    else:
        save(state, prepared, run)  # from its first moment a run can be resumed, and go back
    progress = state.progress
    steps = len(prepared.loader("train", recipe.augment))
    with _acknowledged(callback), catch_signals(until) as stop, callback.training(recipe.epochs, steps, progress.step):
        if stop.reached(progress.step):
            raise _interrupted(stop, run)
        _train_epochs(state, prepared, run, callback, stop, tracking)
    if world.is_main:
        shutil.rmtree(run / "checkpoints" / VALIDATED, ignore_errors=True)
    stopped = early_stop(recipe, state.progress, prepared.task.metric, world)
    if stopped is not None:
        hint = "" if recipe.select == "best" else "; --set select=best keeps the weights of the best epoch instead"
        callback.log(stopped.words() + hint)
        if world.is_main:
            run_folder.note(run, "early stop", **asdict(stopped))
    result, records = report(state, prepared, run, callback)
    return replace(result, early_stop=None if stopped is None else asdict(stopped)), records


def _train_epochs(
    state: TrainState,
    prepared: TrainContext,
    run: Path,
    callback: TrainingCallback,
    stop: Stop,
    tracking: Tracking | None,
) -> None:
    """Trains and validates epoch by epoch; one that diverges is tried again from the last good checkpoint."""
    while _goes_on(state.progress, prepared):
        try:
            # What is kept has holes; the plan for scarce memory is better off with page faults.
            with nullcontext() if prepared.recipe.plan == "checkpoint" else allocator.retain_freed_memory():
                train_epoch(state, prepared, run, callback, stop)
            row = end_epoch(state, prepared, run, callback, stop)
        except Diverged as error:
            roll_back(state, prepared, run, callback, error)
            continue
        callback.epoch(row)
        with run_folder.writing(run):
            if prepared.world.is_main:
                run_folder.append_row(run, row)
        if tracking is not None:
            tracking.row(row)
        save(state, prepared, run)
        if agreed(stop, prepared.world)[0] and _goes_on(state.progress, prepared):
            raise _interrupted(stop, run)


def _goes_on(progress: Progress, prepared: TrainContext) -> bool:
    """Whether another epoch is to be trained."""
    recipe = prepared.recipe
    if progress.epoch >= recipe.epochs:
        return False
    return early_stop(recipe, progress, prepared.task.metric, prepared.world) is None


def _acknowledged(callback: TrainingCallback) -> AbstractContextManager[None]:
    line = "ctrl-C: stopping after this step, whose state is saved (press it again to stop at once)"
    return signal_watch.acknowledged_by(lambda: callback.log(line))


def start(prepared: TrainContext) -> TrainState:
    """The state before the first step."""
    recipe, model, world = prepared.recipe, prepared.model, prepared.world
    network: nn.Module = model
    if world.size > 1:
        if recipe.sync_batch_norm:
            ops.convert_sync_batch_norm(model)
        devices = [prepared.device] if prepared.device.type == "cuda" else None
        # Without this it sorts gradients anew after its first step, and a sum over three processes or more depends on
        # their order: a resumed run would differ in the last bits.
        network = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)
        network.broadcast_buffers = False  # equal on all where they are synced, each its own where not
    average = average_of(model, recipe.ema.decay)
    scaler = scaler_for(prepared.device, recipe.precision)
    return TrainState(model, network, optimizer_for(model, recipe.optimizer), average, scaler, Progress())


def train_epoch(state: TrainState, prepared: TrainContext, run: Path, callback: TrainingCallback, stop: Stop) -> None:
    """From wherever in the epoch the state stands to its end. Saves when that is due."""
    recipe, progress, world = prepared.recipe, state.progress, prepared.world
    loader = prepared.loader("train", recipe.augment)
    saved_at = counted_to = time.monotonic()
    limit = loss_growth.limit_of(prepared)
    state.model.train()
    with loader.reading(progress.epoch, skip=progress.step_in_epoch) as batches:
        for batch in batches:
            rate = rate_at(recipe, progress, progress.step_in_epoch / len(loader))
            counts = share_failures(batch, prepared.data.skipped, world)
            pieces = pieces_of(counts, recipe, world, whole=is_whole(batch, world), epoch=progress.epoch)
            if min(counts) and not pieces:
                callback.log(
                    f"step {progress.step_in_epoch + 1} of epoch {progress.epoch + 1} is left out: it has one image, "
                    "and batch norm on maps of one pixel needs two; change batch_size, or raise the image size"
                )
            if pieces:  # else a share has too few readable images: the same choice on every process
                outcome = train_step(state, batch, prepared, rate, counts)
                if outcome.fault is not None:
                    raise diverged(run, prepared, fault_of_step(state, prepared, batch, outcome, rate))
                count = len(batch.samples) if is_whole(batch, world) else sum(counts)
                if (fault := loss_growth.after_step(progress, limit, outcome.loss / count, rate)) is not None:
                    raise diverged(run, prepared, fault)
                progress.totals.add(outcome.loss, outcome.correct, count)
                now = time.monotonic()
                progress.seconds += now - counted_to
                counted_to = now
                callback.step(
                    epoch=progress.epoch + 1,
                    step=progress.step,
                    images=count,
                    accuracy=progress.totals.correct / progress.totals.count,
                    loss=progress.totals.loss / progress.totals.count,
                    rate=rate,
                )
            progress.step += 1
            progress.step_in_epoch += 1
            told, due = agreed(stop, world, due=_due(recipe, progress, saved_at))
            stopping = told or stop.reached(progress.step)
            if due or stopping:
                save(state, prepared, run)
                saved_at = time.monotonic()
            if stopping:
                raise _interrupted(stop, run)


def roll_back(
    state: TrainState, prepared: TrainContext, run: Path, callback: TrainingCallback, error: Diverged
) -> None:
    """To the last checkpoint, and on at a lower learning rate. Raises `error` if that was done often enough."""
    done, validated = state.progress.rollbacks, run / "checkpoints" / VALIDATED
    if done >= prepared.recipe.divergence.rollbacks:
        raise error
    folder = prepared.world.run_on_main(lambda: validated if validated.exists() else run / "checkpoints" / "last")
    # The old one still waits for the update that was not made; what it had learned is in the checkpoint.
    state.scaler = scaler_for(prepared.device, prepared.recipe.precision)
    restore_checkpoint(prepared.world.run_on_main(lambda: read_checkpoint(folder)), state, folder)
    state.progress.rollbacks = done + 1
    if folder == validated:
        save(state, prepared, run)
    callback.log(
        f"{error}. Going back to step {state.progress.step}, with {prepared.recipe.divergence.factor:g} of the rate "
        f"({done + 1} of {prepared.recipe.divergence.rollbacks} times)"
    )
    if prepared.world.is_main:
        run_folder.note(run, "rollback", step=state.progress.step, reason=str(error))


def end_epoch(
    state: TrainState, prepared: TrainContext, run: Path, callback: TrainingCallback, stop: Stop
) -> dict[str, Any]:
    """Validates, keeps the best if the recipe selects by it, and moves the state to the next epoch.

    Raises Diverged where the weights, or the outputs for the validation images, are not finite.
    """
    recipe, progress, totals = prepared.recipe, state.progress, state.progress.totals
    require_finite(state, prepared, run)
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "lr": rate_at(recipe, progress, 1 - 1 / len(prepared.loader("train", recipe.augment))),
        "train_loss": totals.loss / max(1, totals.count),
        f"train_{prepared.task.hit}": totals.correct / max(1, totals.count),
        "seconds": progress.seconds,
    }
    better = False
    if "val" in prepared.data.splits:
        if prepared.world.size > 1:
            # They cannot stop in the middle of a validation: torchrun might not wait for it.
            save_unvalidated(state, prepared, run)
        try:
            result, _ = evaluate_split(state, prepared, run, "val", callback, stop)
        except Interrupted:
            save_unvalidated(state, prepared, run)  # at the end of the epoch's steps: it will be validated then
            raise _interrupted(stop, run) from None
        _check_growth(state, prepared, run, callback, result.loss)
        row |= {f"val_{name}": value for name, value in result.epoch_row().items() if value is not None}
        progress.val_losses.append(result.loss)
        progress.val_scores.append(result.score)
        better = recipe.select == "best" and result.score > progress.best_top1
        if better:
            progress.best_top1 = result.score
    progress.epoch += 1
    progress.step_in_epoch = 0
    progress.totals = Totals()
    if better:
        save(state, prepared, run, "best")  # with this epoch counted: its card says after how many
    return row


def _check_growth(
    state: TrainState, prepared: TrainContext, run: Path, callback: TrainingCallback, loss: float | None
) -> None:
    """Raises Diverged for a validation loss that has grown too far, if training may go back; else says so."""
    progress = state.progress
    fault = loss_growth.after_validation(progress, prepared, loss, last_rate(prepared, progress))
    if fault is None:
        return
    if progress.rollbacks < prepared.recipe.divergence.rollbacks:
        raise diverged(run, prepared, fault)
    callback.log(f"the {fault.what} {fault.place}: lower the rate with --set optimizer.lr")


def evaluate_split(
    state: TrainState,
    prepared: TrainContext,
    run: Path,
    split: str,
    callback: TrainingCallback,
    stop: Stop | None = None,
) -> tuple[Result, Records]:
    """Metrics of the kept weights on a split.

    Raises Diverged for outputs that are not finite; Interrupted, in a process that is alone, when `stop` says so.
    """
    loader = prepared.loader(split)
    prepared.world.broadcast(state.result_model.buffers())  # where each process has its own statistics
    with callback.evaluating(split, len(loader.images)) as advance:

        def count(images: int) -> None:
            if stop is not None and stop.signal_number and prepared.world.size == 1:
                raise Interrupted("stopped", stop.signal_number)
            advance(images)

        try:
            return evaluate(
                state.result_model,
                loader,
                task=prepared.task,
                names=(prepared.recipe.model.name, prepared.data.name, split),
                skipped=prepared.data.skipped,
                world=prepared.world,
                advance=count,
                precision=prepared.recipe.precision,
            )
        except NotFinite as error:
            fault = fault_of_outputs(state.progress, split, error.images, last_rate(prepared, state.progress))
            raise diverged(run, prepared, fault) from error


def report(state: TrainState, prepared: TrainContext, run: Path, callback: TrainingCallback) -> tuple[Result, Records]:
    """The result: the test split if there is one, measured once, on weights that it never chose."""
    chosen = "best" if prepared.recipe.select == "best" else "last"
    folder = run / "checkpoints" / chosen
    if chosen == "best":
        restore_checkpoint(prepared.world.run_on_main(lambda: read_checkpoint(folder)), state, folder)
    if "val" in prepared.data.splits:
        task = prepared.task.decided(lambda: evaluate_split(state, prepared, run, "val", callback)[1])
        prepared = replace(prepared, task=task)
    split = next(name for name in ("test", "val", "train") if name in prepared.data.splits)
    result, rows = evaluate_split(state, prepared, run, split, callback)
    result = with_intervals(result, rows, groups_of(prepared.data.splits[split]))
    if prepared.world.is_main:
        metrics = {"split": split, **result.headline(), **result.intervals()}
        card = card_for(prepared, state.progress).model_copy(
            update={"metrics": metrics, "sha256": read_card(folder).sha256}
        )
        with run_folder.writing(run):
            atomic.write(folder / "config.json", card.model_dump_json(indent=2) + "\n")
            atomic.write(run / "checkpoints" / "result", chosen)
            if isinstance(rows, MultiLabelRecords):
                run_folder.write_predictions(run, prepared.data.splits[split], prepared.data.classes, rows)
    return result, rows


def agreed(stop: Stop, world: DistributedContext, *, due: bool = False) -> tuple[bool, bool]:
    """Whether any process was told to stop, and whether rank 0 finds a checkpoint due; then all do, at one step.

    Clocks differ: if each asked its own, one would wait in the checkpoint for another that is in the next step.
    """
    signals, leaders = world.sums(stop.signal_number, due and world.is_main)
    if signals and not stop.signal_number:
        stop.signal_number = signal.SIGTERM  # what the others were told
    return signals > 0, leaders > 0


def _due(recipe: Recipe, progress: Progress, saved_at: float) -> bool:
    every = recipe.checkpoint
    by_step = every.every_steps is not None and progress.step % every.every_steps == 0
    return by_step or (every.every_seconds is not None and time.monotonic() - saved_at >= every.every_seconds)


def _interrupted(stop: Stop, run: Path) -> Interrupted:
    return Interrupted(f"stopped and saved; go on with: {run_folder.resuming(run)}", stop.signal_number)
