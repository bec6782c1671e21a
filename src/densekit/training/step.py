"""One step: a batch, divided between processes and pieces, to one update of the weights."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from densekit import ops
from densekit.config import Recipe
from densekit.data import Batch
from densekit.data.mixing import mixing_for
from densekit.data.sets import SkipList
from densekit.distributed.process_group import DistributedContext
from densekit.models.cost import needs_two_images
from densekit.precision import autocast
from densekit.training.optimizer import set_rate
from densekit.training.rng import reseed
from densekit.training.setup import TrainContext
from densekit.training.state import TrainState


def share_failures(batch: Batch, skipped: SkipList, world: DistributedContext) -> list[int]:
    """How many images each process has of this batch. Raises BadData, in all of them, for too many bad files."""
    if not world.sums(len(batch.failures))[0]:
        if is_whole(batch, world):
            return [batch.total] * world.size
        return [len(range(rank, batch.total, world.size)) for rank in range(world.size)]
    everybody = world.gather((len(batch.samples), batch.failures))
    for _, failures in everybody:
        skipped.add_all(failures)
    return [count for count, _ in everybody]


def is_whole(batch: Batch, world: DistributedContext) -> bool:
    """Whether every process has all of this batch, as there were too few images to divide."""
    return batch.total < world.size


def pieces_of(counts: list[int], recipe: Recipe, world: DistributedContext, *, whole: bool, epoch: int) -> int:
    """In how many pieces each process takes its images of a step; 0 where batch norm would get a single value.

    That is, where the network's last maps are one pixel, pieces have two images or more.
    """
    pieces = min(recipe.accumulate, *counts)
    pooled = world.size > 1 and recipe.sync_batch_norm and not whole
    if min(counts) >= 2 * pieces or pooled:
        return pieces
    side = recipe.side(epoch)
    size = recipe.model.image_size if side is None else (side, side)
    return min(counts) // 2 if needs_two_images(recipe.model, size) else pieces


class Outcome(NamedTuple):
    """Of a step, before its update."""

    loss: float
    """Summed over the images."""
    correct: int
    gradient: float
    """Norm over all parameters; in float16 infinite ones are the scaler's business while it can help, and 0 here."""

    @property
    def fault(self) -> str | None:
        """What is not finite, if anything; then nothing was updated."""
        for name, value in (("loss", self.loss), ("gradient", self.gradient)):
            if not math.isfinite(value):
                return f"{name} became {value}"
        return None


def train_step(state: TrainState, batch: Batch, prepared: TrainContext, rate: float, counts: list[int]) -> Outcome:
    """One update of the weights and of their average. `counts`: images of each process, enough for `pieces_of`."""
    recipe, world = prepared.recipe, prepared.world
    whole = is_whole(batch, world)
    reseed(recipe.seed, state.progress.step, 0 if whole else world.rank)
    # Gradients are averaged over the processes afterwards; a loss of sums makes them those of the whole batch's mean.
    scale = 1 / counts[0] if whole else world.size / sum(counts)
    pieces = pieces_of(counts, recipe, world, whole=whole, epoch=state.progress.epoch)
    images, targets = inputs(batch, recipe, state.progress.epoch, len(prepared.data.classes))
    summed, correct = 0.0, 0
    state.optimizer.zero_grad(set_to_none=True)
    with ops.unsynchronised() if whole else nullcontext():
        parts = zip(images.tensor_split(pieces), targets.tensor_split(pieces), strict=True)
        for piece, (some, wanted) in enumerate(parts, start=1):
            with _together(state.network, last=piece == pieces):
                with autocast(some.device, recipe.precision):
                    logits: Tensor = state.network(some.contiguous(memory_format=torch.channels_last))
                loss = prepared.task.loss(logits.float(), wanted)
                state.scaler.scale(loss * scale).backward()
            summed += loss.item()
            correct += prepared.task.num_correct(logits, wanted)
    if not whole:
        summed, hits = world.sums(summed, correct)
        correct = int(hits)
    state.scaler.unscale_(state.optimizer)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients))
    if not math.isfinite(norm) and state.scaler.is_enabled() and state.scaler.get_scale() >= 1:
        norm = 0.0  # it may be the scale's overflow: the scaler passes over this update, and halves it
    outcome = Outcome(summed, correct, norm)
    if outcome.fault is None:
        _update(state, recipe, rate)
    return outcome


def inputs(batch: Batch, recipe: Recipe, epoch: int, classes: int) -> tuple[Tensor, Tensor]:
    """Images at the size of this epoch, mixed where the recipe mixes: by torch's generator."""
    images, targets = batch.images, batch.targets
    side = recipe.side(epoch)
    if side is not None and images.shape[-2:] != (side, side):
        images = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    mix = mixing_for(recipe.augment, classes)
    return (images, targets) if mix is None else mix(images, targets)


def _update(state: TrainState, recipe: Recipe, rate: float) -> None:
    set_rate(state.optimizer, rate)
    if recipe.optimizer.clip_norm is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.optimizer.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)


def _together(network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Gradients of accumulated pieces travel once, with the last."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext()
