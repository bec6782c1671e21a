"""Training: one visible loop. What changes is in TrainState, what does not in the recipe."""

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.config import Recipe
from densekit.data import Batch
from densekit.engine import runs
from densekit.engine.ema import average_of
from densekit.engine.evaluate import Records, Result, evaluate
from densekit.engine.interrupt import Stop, catch_signals
from densekit.engine.optimizer import optimizer_for
from densekit.engine.progress import Display
from densekit.engine.schedule import learning_rate
from densekit.engine.setup import Prepared
from densekit.engine.state import Progress, Totals, TrainState, restore_checkpoint, save_checkpoint
from densekit.errors import Diverged, Interrupted
from densekit.weights import ModelCard, atomic


def fit(prepared: Prepared, run: Path, display: Display, *, resume: bool = False) -> tuple[Result, Records]:
    """Trains to the recipe's last epoch, writing `run` as it goes; returns the result on the reported split.

    Raises Diverged for a loss that is not finite, Interrupted after a signal, with the state saved.
    """
    recipe = prepared.recipe
    state = TrainState(
        prepared.model,
        optimizer_for(prepared.model, recipe.optimizer),
        average_of(prepared.model, recipe.ema.decay),
        Progress(),
    )
    if resume:
        restore_checkpoint(run / "checkpoints" / "last", state)
        runs.write_recipe(run, recipe)
        done = state.progress.epoch >= recipe.epochs
        display.say(
            f"{run} is finished; measuring it again" if done else f"going on in epoch {state.progress.epoch + 1}"
        )
    train = prepared.loader("train", recipe.augment)
    progress = state.progress
    with catch_signals() as stop, display.training(recipe.epochs, len(train), progress.step):
        while progress.epoch < recipe.epochs:
            train_epoch(state, prepared, run, display, stop)
            row = end_epoch(state, prepared, run, display)
            display.epoch(row)
            runs.append_row(run, row)
            save_checkpoint(run / "checkpoints" / "last", state, card_for(prepared, progress))
            if stop.signal_number and progress.epoch < recipe.epochs:
                raise _interrupted(stop, run)
    return report(state, prepared, run, display)


def train_epoch(state: TrainState, prepared: Prepared, run: Path, display: Display, stop: Stop) -> None:
    """From wherever in the epoch the state stands to its end. Saves when that is due."""
    recipe, progress = prepared.recipe, state.progress
    loader = prepared.loader("train", recipe.augment)
    total = recipe.epochs * len(loader)
    saved_at = counted_to = time.monotonic()
    state.model.train()
    for batch in loader.epoch(progress.epoch, skip=progress.step_in_epoch):
        rate = learning_rate(recipe.schedule, recipe.optimizer.lr, progress.step / total)
        loss, correct = train_step(state, batch, recipe, rate)
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss became {loss} in epoch {progress.epoch + 1}, step {progress.step_in_epoch + 1}, at learning "
                f"rate {rate:.3g}; lower it with --set optimizer.lr={recipe.optimizer.lr / 3:.2g}"
            )
        progress.totals.add(loss, correct, len(batch.samples))
        progress.step += 1
        progress.step_in_epoch += 1
        now = time.monotonic()
        progress.seconds += now - counted_to
        counted_to = now
        display.step(progress, len(batch.samples), rate)
        if _due(recipe, progress, saved_at) or stop.signal_number:
            save_checkpoint(run / "checkpoints" / "last", state, card_for(prepared, progress))
            saved_at = time.monotonic()
        if stop.signal_number:
            raise _interrupted(stop, run)


def train_step(state: TrainState, batch: Batch, recipe: Recipe, rate: float) -> tuple[float, int]:
    """One update of the weights, and of their average; (mean loss, correct predictions) before it."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        logits: Tensor = state.model(images)
        loss = F.cross_entropy(logits.float(), batch.targets, label_smoothing=recipe.label_smoothing)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimizer.step()
    if state.average is not None:
        state.average.update_parameters(state.model)
    return loss.item(), int((logits.argmax(1) == batch.targets).sum())


def end_epoch(state: TrainState, prepared: Prepared, run: Path, display: Display) -> dict[str, Any]:
    """Validates, keeps the best if the recipe selects by it, and moves the state to the next epoch."""
    recipe, progress, totals = prepared.recipe, state.progress, state.progress.totals
    total = recipe.epochs * len(prepared.loader("train", recipe.augment))
    row: dict[str, Any] = {
        "epoch": progress.epoch + 1,
        "step": progress.step,
        "lr": learning_rate(recipe.schedule, recipe.optimizer.lr, (progress.step - 1) / total),
        "train_loss": totals.loss / totals.count,
        "train_top1": totals.correct / totals.count,
        "seconds": progress.seconds,
    }
    if "val" in prepared.data.splits:
        result, _ = evaluate_split(state, prepared, "val", display)
        row |= {"val_loss": result.loss, "val_top1": result.top1, "val_ece": result.ece}
        if recipe.select == "best" and result.top1 > progress.best_top1:
            progress.best_top1 = result.top1
            save_checkpoint(run / "checkpoints" / "best", state, card_for(prepared, progress))
    progress.epoch += 1
    progress.step_in_epoch = 0
    progress.totals = Totals()
    return row


def evaluate_split(state: TrainState, prepared: Prepared, split: str, display: Display) -> tuple[Result, Records]:
    """Metrics of the kept weights on a split."""
    loader = prepared.loader(split)
    with display.evaluating(split, len(loader.images)) as advance:
        return evaluate(
            state.result_model,
            loader,
            classes=prepared.data.classes,
            names=(prepared.recipe.model.name, prepared.data.name, split),
            advance=advance,
            precision=prepared.recipe.precision,
        )


def report(state: TrainState, prepared: Prepared, run: Path, display: Display) -> tuple[Result, Records]:
    """The result: the test split if there is one, measured once, on weights that it never chose."""
    chosen = "best" if prepared.recipe.select == "best" else "last"
    folder = run / "checkpoints" / chosen
    if chosen == "best":
        restore_checkpoint(folder, state)
    split = next(name for name in ("test", "val", "train") if name in prepared.data.splits)
    result, rows = evaluate_split(state, prepared, split, display)
    metrics = {"split": split, **{key: getattr(result, key) for key in ("count", "top1", "top5", "loss", "ece")}}
    card = card_for(prepared, state.progress).model_copy(update={"metrics": metrics})
    atomic.write(folder / "config.json", card.model_dump_json(indent=2) + "\n")
    atomic.write(run / "checkpoints" / "result", chosen)
    runs.write_result(run, result)
    runs.write_skipped(run, prepared.data)
    return result, rows


def card_for(prepared: Prepared, progress: Progress) -> ModelCard:
    """What stands beside the weights: enough to use them, and to know where they come from."""
    environment = runs.environment()
    return ModelCard(
        model=prepared.recipe.model,
        classes=prepared.data.classes,
        preprocessing=prepared.preprocessing,
        data=prepared.recipe.data,
        provenance={
            "recipe": prepared.recipe.name,
            "init": prepared.recipe.init,
            "seed": prepared.recipe.seed,
            "epochs": progress.epoch,
            "step": progress.step,
            "training_images": len(prepared.data.splits["train"]),
            "seconds": round(progress.seconds, 1),
            **{key: environment[key] for key in ("command", "densekit", "torch", "processor", "threads")},
        },
    )


def _due(recipe: Recipe, progress: Progress, saved_at: float) -> bool:
    every = recipe.checkpoint
    by_step = every.every_steps is not None and progress.step % every.every_steps == 0
    return by_step or (every.every_seconds is not None and time.monotonic() - saved_at >= every.every_seconds)


def _interrupted(stop: Stop, run: Path) -> Interrupted:
    return Interrupted(f"stopped and saved; go on with: densekit resume {run}", stop.signal_number)
