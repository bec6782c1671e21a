"""What is written when the loss is not a finite number: enough to find the image or the layer that did it."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from densekit import ops
from densekit.data import Batch
from densekit.engine import runs
from densekit.engine.chance import reseed
from densekit.engine.precision import autocast
from densekit.engine.setup import Prepared
from densekit.engine.state import TrainState
from densekit.engine.step import Outcome, inputs
from densekit.weights import atomic

FILE = "diverged.json"


def write_dump(run: Path, state: TrainState, prepared: Prepared, batch: Batch, outcome: Outcome, rate: float) -> None:
    """RUN/diverged.json: the images of the batch, on every process, and norms by layer on the leader's share."""
    train = prepared.data.splits["train"]
    images = prepared.world.gather([train.name(i) for i in batch.samples.tolist()])
    if prepared.world.leads:
        progress = state.progress
        document = {
            "epoch": progress.epoch + 1,
            "step_in_epoch": progress.step_in_epoch + 1,
            "step": progress.step + 1,
            "loss": str(outcome.loss),  # JSON has no NaN
            "gradient_norm": str(outcome.gradient),
            "learning_rate": rate,
            "images": [name for part in images for name in part],
            "input": {"smallest": _plain(batch.images.min()), "largest": _plain(batch.images.max())},
            "layers": _layers(state.model, images_of(state, prepared, batch), prepared.recipe.precision),
        }
        with runs.writing(run):
            atomic.write(run / FILE, json.dumps(document, indent=2) + "\n")


def images_of(state: TrainState, prepared: Prepared, batch: Batch) -> Tensor:
    """What the leader's network saw of the batch: resized, and mixed with the same partners."""
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
    with torch.no_grad(), ops.apart(), autocast(images.device, precision):
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
