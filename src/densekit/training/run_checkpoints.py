"""Which checkpoints a run keeps: the last state, the best, and one to go back to while training may be diverging."""

import shutil
from pathlib import Path

from densekit import atomic
from densekit.runs import run_folder
from densekit.training.checkpoint import save_checkpoint
from densekit.training.nonfinite import diverged, fault_of_weights
from densekit.training.resume_check import fingerprint_of
from densekit.training.schedule import last_rate
from densekit.training.setup import TrainContext
from densekit.training.state import Progress, TrainState
from densekit.weights import ModelCard

VALIDATED = "validated"
"""Below checkpoints/, the last good checkpoint: during a validation, and while the loss is above its limit."""


def save(state: TrainState, prepared: TrainContext, run: Path, name: str = "last") -> None:
    """Rank 0 writes, for all: what it has, all have. Where training may be diverging, as `save_unvalidated`.

    Raises, on all, Diverged for a state that is not finite, which replaces no checkpoint, and BadData where the disk is
    full.
    """
    if name == "last" and state.progress.doubtful:
        save_unvalidated(state, prepared, run)
        return
    require_finite(state, prepared, run)
    _write(state, prepared, run, name)
    if prepared.world.is_main and name == "last":
        shutil.rmtree(run / "checkpoints" / VALIDATED, ignore_errors=True)


def save_unvalidated(state: TrainState, prepared: TrainContext, run: Path) -> None:
    """Saves what may lead to a rollback; where one is left, keeps the last good checkpoint, to go back to."""
    last, validated = run / "checkpoints" / "last", run / "checkpoints" / VALIDATED
    require_finite(state, prepared, run)

    def keep() -> None:
        if not validated.exists():
            with run_folder.writing(run), atomic.new_folder(validated) as fresh:
                shutil.copytree(last, fresh, dirs_exist_ok=True)

    if state.progress.rollbacks < prepared.recipe.divergence.rollbacks:
        prepared.world.run_on_main(keep)
    _write(state, prepared, run, "last")


def _write(state: TrainState, prepared: TrainContext, run: Path, name: str) -> None:
    def write() -> None:
        with run_folder.writing(run):
            card = card_for(prepared, state.progress)
            skipped, hashes = prepared.data.skipped, prepared.hashes
            save_checkpoint(run / "checkpoints" / name, state, card, fingerprint_of(prepared), skipped, hashes)

    prepared.world.run_on_main(write)


def require_finite(state: TrainState, prepared: TrainContext, run: Path) -> None:
    """Raises Diverged, on all processes, where rank 0's state is not finite: it is what a checkpoint holds."""
    tensors = prepared.world.run_on_main(state.not_finite)
    if tensors:
        fault = fault_of_weights(state.progress, tensors, last_rate(prepared, state.progress))
        raise diverged(run, prepared, fault)


def card_for(prepared: TrainContext, progress: Progress) -> ModelCard:
    """What stands beside the weights: enough to use them, and to know where they come from."""
    environment = run_folder.environment()
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
