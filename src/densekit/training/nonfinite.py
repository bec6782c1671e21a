"""What is said and written when training diverges: enough to find the image or the layer that did it."""

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densekit import atomic, ops, strict_json
from densekit.data import Batch
from densekit.errors import Diverged
from densekit.formatting import counted, listed
from densekit.precision import autocast
from densekit.runs import run_folder
from densekit.training.rng import reseed
from densekit.training.setup import TrainContext
from densekit.training.state import Progress, TrainState
from densekit.training.step import Outcome, inputs

FILE = "diverged.json"


@dataclass(frozen=True)
class Fault:
    """Something that is not finite."""

    what: str
    """In the words of the error."""
    place: str
    """When it was seen, in the words of the error."""
    rate: float
    """The learning rate at that step."""
    facts: Mapping[str, Any]
    """What diverged.json says about it."""


def diverged(run: Path, prepared: TrainContext, fault: Fault) -> Diverged:
    """The error for a fault that all processes see; rank 0 writes RUN/diverged.json."""
    dump = ""
    with suppress(Exception):  # whatever is wrong with the dump must not hide what happened
        if prepared.world.is_main:
            write_dump(run, fault)
        dump = f"details are in {run / FILE}; "
    return Diverged(
        f"the {fault.what} {fault.place}, at learning rate {fault.rate:.3g}; {dump}lower the rate with "
        f"--set optimizer.lr={prepared.recipe.optimizer.lr / 3:.2g}"
    )


def write_dump(run: Path, fault: Fault) -> None:
    """RUN/diverged.json."""
    document = {"fault": fault.what, "learning_rate": fault.rate, **fault.facts}
    with run_folder.writing(run):
        atomic.write(run / FILE, strict_json.dumps(document, indent=2) + "\n")


def fault_of_step(state: TrainState, prepared: TrainContext, batch: Batch, outcome: Outcome, rate: float) -> Fault:
    """A loss or gradient: the images of the batch, on every process, and norms by layer on rank 0's share."""
    train = prepared.data.splits["train"]
    progress, facts = state.progress, dict[str, Any]()
    with suppress(Exception):
        images = prepared.world.gather([train.name(i) for i in batch.samples.tolist()])
        if prepared.world.is_main:
            facts = {
                "epoch": progress.epoch + 1,
                "step_in_epoch": progress.step_in_epoch + 1,
                "step": progress.step + 1,
                "loss": str(outcome.loss),  # JSON has no NaN
                "gradient_norm": str(outcome.gradient),
                "images": [name for part in images for name in part],
                "input": {"smallest": _plain(batch.images.min()), "largest": _plain(batch.images.max())},
                "layers": _layers(state.model, images_of(state, prepared, batch), prepared.recipe.precision),
            }
    place = f"in epoch {progress.epoch + 1}, step {progress.step_in_epoch + 1}"
    return Fault(str(outcome.fault), place, rate, facts)


def fault_of_weights(progress: Progress, tensors: Sequence[str], rate: float) -> Fault:
    """Weights, running statistics or the optimizer's state, by name."""
    facts = {"step": progress.step, "tensors": list(tensors)}
    return Fault(f"weights became not finite ({listed(tensors)})", f"after step {progress.step}", rate, facts)


def fault_of_outputs(progress: Progress, split: str, images: Sequence[str], rate: float) -> Fault:
    """A network's outputs for some images of a split, by name."""
    facts = {"step": progress.step, "split": split, "images": list(images)}
    what = f"outputs became not finite for {counted(len(images), 'image')} of {split} ({listed(images)})"
    return Fault(what, f"after step {progress.step}", rate, facts)


def images_of(state: TrainState, prepared: TrainContext, batch: Batch) -> Tensor:
    """What rank 0's network saw of the batch: resized, and mixed with the same partners."""
    reseed(prepared.recipe.seed, state.progress.step, 0)
    return inputs(batch, prepared.recipe, state.progress.epoch, len(prepared.data.classes))[0]


def _layers(model: nn.Module, images: Tensor, precision: str) -> list[dict[str, Any]]:
    """In the order of execution: norms of each layer's output, weights and gradients before the update."""
    outputs: dict[str, float | str] = {}
    probe = copy.deepcopy(model)  # its statistics may change, the model's must not
    for name, module in probe.named_modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(
                lambda _, __, output, name=name: outputs.__setitem__(name, _plain(output.float().norm()))
            )
    with torch.no_grad(), ops.unsynchronised(), autocast(images.device, precision):
        probe(images)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return [
        {
            "layer": layer,
            "output": norm,
            "weights": {n: _plain(p.norm()) for n, p in model.get_submodule(layer).named_parameters()},
            "gradients": {
                n: None if (g := gradients[f"{layer}.{n}"]) is None else _plain(g.norm())
                for n, _ in model.get_submodule(layer).named_parameters()
            },
        }
        for layer, norm in outputs.items()
    ]


def _plain(value: Tensor) -> float | str:
    number = value.item()
    return number if math.isfinite(number) else str(number)
