"""Training: one visible loop. What changes is in TrainState, what does not in the recipe."""

import signal
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densekit import ops
from densekit.config import Recipe
from densekit.engine import allocation, runs
from densekit.engine.continuity import made_by
from densekit.engine.divergence import FILE, write_dump
from densekit.engine.ema import average_of
from densekit.engine.evaluate import evaluate
from densekit.engine.interrupt import Stop, catch_signals
from densekit.engine.multi_label import MultiLabelRecords
from densekit.engine.optimizer import optimizer_for
from densekit.engine.precision import scaler_for
from densekit.engine.processes import World
from densekit.engine.progress import Display
from densekit.engine.schedule import learning_rate
from densekit.engine.setup import Prepared
from densekit.engine.state import (
    Checkpoint,
    Progress,
    Totals,
    TrainState,
    read_checkpoint,
    restore_checkpoint,
    save_checkpoint,
)
from densekit.engine.step import is_whole, pieces_of, share_failures, train_step
from densekit.engine.task import Records, Result
from densekit.engine.tracking import Tracking
from densekit.errors import Diverged, Interrupted
from densekit.weights import ModelCard, atomic, read_card


def fit(
    prepared: Prepared,
    run: Path,
    display: Display,
    *,
    checkpoint: Checkpoint | None = None,
    until: int | None = None,
    tracking: Tracking | None = None,
) -> tuple[Result, Records]:
    """Trains from the start, or from `checkpoint`, to the recipe's last epoch or step `until`, and writes `run`.

    Returns the result on the reported split. Raises Diverged for a loss that is not finite, Interrupted after a signal,
    with the state saved, and BadData where the disk is full.
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
    with catch_signals(until) as stop, display.training(recipe.epochs, steps, progress.step):
        if stop.reached(progress.step):
            raise _interrupted(stop, run)
        while state.progress.epoch < recipe.epochs:
            try:
                # What is kept has holes; the plan for scarce memory is better off with page faults.
                with nullcontext() if recipe.plan == "checkpoint" else allocation.kept():
                    train_epoch(state, prepared, run, display, stop)
            except Diverged as error:
                roll_back(state, prepared, run, display, error)
                continue
            row = end_epoch(state, prepared, run, display, stop)
            display.epoch(row)
            with runs.writing(run):
                if world.leads:
                    runs.append_row(run, row)
            if tracking is not None:
                tracking.row(row)
            save(state, prepared, run)
            if agreed(stop, world)[0] and state.progress.epoch < recipe.epochs:
                raise _interrupted(stop, run)
    return report(state, prepared, run, display)


def start(prepared: Prepared) -> TrainState:
    """The state before the first step."""
    recipe, model, world = prepared.recipe, prepared.model, prepared.world
    network: nn.Module = model
    if world.size > 1:
        if recipe.sync_batch_norm:
            ops.convert(model)
        devices = [prepared.device] if prepared.device.type == "cuda" else None
        # Without this it sorts gradients anew after its first step, and a sum over three processes or more depends on
        # their order: a resumed run would differ in the last bits.
        network = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)
        network.broadcast_buffers = False  # equal on all where they are synced, each its own where not
    average = average_of(model, recipe.ema.decay)
    scaler = scaler_for(prepared.device, recipe.precision)
    return TrainState(model, network, optimizer_for(model, recipe.optimizer), average, scaler, Progress())


def train_epoch(state: TrainState, prepared: Prepared, run: Path, display: Display, stop: Stop) -> None:
    """From wherever in the epoch the state stands to its end. Saves when that is due."""
    recipe, progress, world = prepared.recipe, state.progress, prepared.world
    loader = prepared.loader("train", recipe.augment)
    saved_at = counted_to = time.monotonic()
    state.model.train()
    with loader.reading(progress.epoch, skip=progress.step_in_epoch) as batches:
        for batch in batches:
            rate = _rate(recipe, progress, progress.step_in_epoch / len(loader))
            counts = share_failures(batch, prepared.data.skipped, world)
            pieces = pieces_of(counts, recipe, world, whole=is_whole(batch, world), epoch=progress.epoch)
            if min(counts) and not pieces:
                display.say(
                    f"step {progress.step_in_epoch + 1} of epoch {progress.epoch + 1} is left out: it has one image, "
                    "and batch norm on maps of one pixel needs two; change batch_size, or raise the image size"
                )
            if pieces:  # else a share has too few readable images: the same choice on every process
                outcome = train_step(state, batch, prepared, rate, counts)
                if outcome.fault is not None:
                    dump = ""
                    with suppress(Exception):  # whatever is wrong with the dump must not hide what happened
                        write_dump(run, state, prepared, batch, outcome, rate)
                        dump = f"its images and the norms of all layers are in {run / FILE}; "
                    raise Diverged(
                        f"the {outcome.fault} in epoch {progress.epoch + 1}, step {progress.step_in_epoch + 1}, at "
                        f"learning rate {rate:.3g}; {dump}lower the rate with "
                        f"--set optimizer.lr={recipe.optimizer.lr / 3:.2g}"
                    )
                count = len(batch.samples) if is_whole(batch, world) else sum(counts)
                progress.totals.add(outcome.loss, outcome.correct, count)
                now = time.monotonic()
                progress.seconds += now - counted_to
                counted_to = now
                display.step(progress, count, rate)
            progress.step += 1
            progress.step_in_epoch += 1
            told, due = agreed(stop, world, due=_due(recipe, progress, saved_at))
            stopping = told or stop.reached(progress.step)
            if due or stopping:
                save(state, prepared, run)
                saved_at = time.monotonic()
            if stopping:
                raise _interrupted(stop, run)


def roll_back(state: TrainState, prepared: Prepared, run: Path, display: Display, error: Diverged) -> None:
    """To the last checkpoint, and on at a lower learning rate. Raises `error` if that was done often enough."""
    folder, done = run / "checkpoints" / "last", state.progress.rollbacks
    if done >= prepared.recipe.divergence.rollbacks:
        raise error
    # The old one still waits for the update that was not made; what it had learned is in the checkpoint.
    state.scaler = scaler_for(prepared.device, prepared.recipe.precision)
    restore_checkpoint(prepared.world.from_leader(lambda: read_checkpoint(folder)), state, folder)
    state.progress.rollbacks = done + 1
    display.say(
        f"{error}. Going back to step {state.progress.step}, with {prepared.recipe.divergence.factor:g} of the rate "
        f"({done + 1} of {prepared.recipe.divergence.rollbacks} times)"
    )
    if prepared.world.leads:
        runs.note(run, "rollback", step=state.progress.step, reason=str(error))


def end_epoch(state: TrainState, prepared: Prepared, run: Path, display: Display, stop: Stop) -> dict[str, Any]:
    """Validates, keeps the best if the recipe selects by it, and moves the state to the next epoch."""
    recipe, progress, totals = prepared.recipe, state.progress, state.progress.totals
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "lr": _rate(recipe, progress, 1 - 1 / len(prepared.loader("train", recipe.augment))),
        "train_loss": totals.loss / max(1, totals.count),
        f"train_{prepared.task.hit}": totals.correct / max(1, totals.count),
        "seconds": progress.seconds,
    }
    better = False
    if "val" in prepared.data.splits:
        if prepared.world.size > 1:
            save(state, prepared, run)  # they cannot stop in the middle of a validation: torchrun might not wait for it
        try:
            result, _ = evaluate_split(state, prepared, "val", display, stop)
        except Interrupted:
            save(state, prepared, run)  # at the end of the epoch's steps: it will be validated then
            raise _interrupted(stop, run) from None
        row |= {f"val_{name}": value for name, value in result.epoch_row().items() if value is not None}
        better = recipe.select == "best" and result.score > progress.best_top1
        if better:
            progress.best_top1 = result.score
    progress.epoch += 1
    progress.step_in_epoch = 0
    progress.totals = Totals()
    if better:
        save(state, prepared, run, "best")  # with this epoch counted: its card says after how many
    return row


def evaluate_split(
    state: TrainState, prepared: Prepared, split: str, display: Display, stop: Stop | None = None
) -> tuple[Result, Records]:
    """Metrics of the kept weights on a split. Raises Interrupted, in a process that is alone, when `stop` says so."""
    loader = prepared.loader(split)
    prepared.world.spread(state.result_model.buffers())  # where each process has its own statistics
    with display.evaluating(split, len(loader.images)) as advance:

        def count(images: int) -> None:
            if stop is not None and stop.signal_number and prepared.world.size == 1:
                raise Interrupted("stopped", stop.signal_number)
            advance(images)

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


def report(state: TrainState, prepared: Prepared, run: Path, display: Display) -> tuple[Result, Records]:
    """The result: the test split if there is one, measured once, on weights that it never chose."""
    chosen = "best" if prepared.recipe.select == "best" else "last"
    folder = run / "checkpoints" / chosen
    if chosen == "best":
        restore_checkpoint(prepared.world.from_leader(lambda: read_checkpoint(folder)), state, folder)
    if "val" in prepared.data.splits:
        task = prepared.task.decided(lambda: evaluate_split(state, prepared, "val", display)[1])
        prepared = replace(prepared, task=task)
    split = next(name for name in ("test", "val", "train") if name in prepared.data.splits)
    result, rows = evaluate_split(state, prepared, split, display)
    if prepared.world.leads:
        metrics = {"split": split, **result.headline()}
        card = card_for(prepared, state.progress).model_copy(
            update={"metrics": metrics, "sha256": read_card(folder).sha256}
        )
        with runs.writing(run):
            atomic.write(folder / "config.json", card.model_dump_json(indent=2) + "\n")
            atomic.write(run / "checkpoints" / "result", chosen)
            if isinstance(rows, MultiLabelRecords):
                runs.write_predictions(run, prepared.data.splits[split], prepared.data.classes, rows)
    return result, rows


def save(state: TrainState, prepared: Prepared, run: Path, name: str = "last") -> None:
    """The leader writes, for all: what it has, all have. Raises BadData, on all, where the disk is full."""

    def write() -> None:
        with runs.writing(run):
            card = card_for(prepared, state.progress)
            skipped, hashes = prepared.data.skipped, prepared.hashes
            save_checkpoint(run / "checkpoints" / name, state, card, made_by(prepared), skipped, hashes)

    prepared.world.from_leader(write)


def card_for(prepared: Prepared, progress: Progress) -> ModelCard:
    """What stands beside the weights: enough to use them, and to know where they come from."""
    environment = runs.environment()
    return ModelCard(
        model=prepared.recipe.model,
        classes=prepared.data.classes,
        preprocessing=prepared.preprocessing,
        task=prepared.task.kind,
        thresholds=prepared.task.thresholds,
        data=prepared.recipe.data,
        provenance={
            "recipe": prepared.recipe.name,
            "init": prepared.recipe.init,
            "seed": prepared.recipe.seed,
            "epochs": progress.epoch,
            "step": progress.step,
            "training_images": len(prepared.data.splits["train"]),
            "seconds": round(progress.seconds, 1),
            "processes": prepared.world.size,
            **{key: environment[key] for key in ("command", "densekit", "torch", "processor", "threads")},
        },
    )


def _rate(recipe: Recipe, progress: Progress, of_epoch: float) -> float:
    share = (progress.epoch + of_epoch) / recipe.epochs
    return learning_rate(recipe.schedule, recipe.optimizer.lr, share) * recipe.divergence.factor**progress.rollbacks


def agreed(stop: Stop, world: World, *, due: bool = False) -> tuple[bool, bool]:
    """Whether any process was told to stop, and whether the leader finds a checkpoint due; then all do, at one step.

    Clocks differ: if each asked its own, one would wait in the checkpoint for another that is in the next step.
    """
    signals, leaders = world.sums(stop.signal_number, due and world.leads)
    if signals and not stop.signal_number:
        stop.signal_number = signal.SIGTERM  # what the others were told
    return signals > 0, leaders > 0


def _due(recipe: Recipe, progress: Progress, saved_at: float) -> bool:
    every = recipe.checkpoint
    by_step = every.every_steps is not None and progress.step % every.every_steps == 0
    return by_step or (every.every_seconds is not None and time.monotonic() - saved_at >= every.every_seconds)


def _interrupted(stop: Stop, run: Path) -> Interrupted:
    return Interrupted(f"stopped and saved; go on with: {runs.resuming(run)}", stop.signal_number)
