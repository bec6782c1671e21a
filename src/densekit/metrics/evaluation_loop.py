"""Metrics of a network on a split, from one record per sample: any order or number of processes gives the same."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densekit.data import Loader
from densekit.data.sets import SkipList
from densekit.distributed.process_group import ALONE, DistributedContext
from densekit.errors import BadData, BadImage, NotFinite
from densekit.formatting import listed
from densekit.metrics.task import Records, Result, Task, finite_rows
from densekit.precision import autocast


def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    task: Task,
    names: tuple[str, str, str],
    skipped: SkipList,
    world: DistributedContext = ALONE,
    advance: Callable[[int], None] = lambda _: None,
    precision: str = "float32",
) -> tuple[Result, Records]:
    """The metrics of one split, and the records they came from. `names` are model, data and split.

    Raises:
        BadData: too many images cannot be read, or none can.
        NotFinite: the network's outputs for some images are not finite.
    """
    started = time.perf_counter()
    finite, *columns = _columns(model, loader, task, skipped, world, advance, precision)
    if not finite.all():
        bad = [loader.images.name(sample) for sample in columns[0][~finite].tolist()]
        error = NotFinite(
            f"the outputs of {names[0]} are not finite for {len(bad):,} of {len(finite):,} images of {names[1]}, "
            f"{names[2]} ({listed(bad)}); train it again with a lower learning rate, or take other weights"
        )
        error.images = tuple(bad)
        raise error
    facts = dict(zip(("model", "data", "split"), names, strict=True))
    return task.measure(columns, facts | {"skipped": skipped.rows(), "seconds": time.perf_counter() - started})


@torch.inference_mode()
def _columns(
    model: nn.Module,
    loader: Loader,
    task: Task,
    skipped: SkipList,
    world: DistributedContext,
    advance: Callable[[int], None],
    precision: str,
) -> list[NDArray[Any]]:
    """Runs `model` over the split in evaluation mode and leaves it in the mode it was in.

    Returns whether the outputs are finite, the samples, and the task's columns.

    Several processes each take some of the batches, and all get all records. Raises BadData for too many bad files.
    """
    was_training = model.training
    model.eval()
    rows: list[tuple[Tensor, ...]] = []
    failures: list[tuple[Path, BadImage]] = []
    with loader.reading() as batches:
        for batch in batches:
            failures += batch.failures
            if world.size == 1:
                skipped.add_all(batch.failures)
            if not len(batch.samples):
                continue
            with autocast(batch.images.device, precision):
                logits = _logits(model, batch.images).float()
            row = (finite_rows(logits), batch.samples, *task.columns(logits, batch.targets))
            rows.append(tuple(tensor.cpu() for tensor in row))
            advance(len(batch.samples) * world.size)
    model.train(was_training)
    columns = [torch.cat(column).numpy() for column in zip(*rows, strict=True)] if rows else None
    everybody = world.gather((columns, failures))
    skipped.add_all(failure for _, theirs in everybody for failure in theirs)
    parts = [part for part, _ in everybody if part is not None]
    if not parts:
        raise BadData("none of the images to evaluate can be read; mend them, or choose another split with --split")
    whole = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(whole[1], kind="stable")
    return [column[order] for column in whole]


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """(N, C, H, W), or (N, 10, C, H, W) for ten crops, whose logits are averaged -> (N, classes)."""
    if images.ndim == 5:
        crops = model(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return crops.unflatten(0, images.shape[:2]).mean(1)
    return model(images.contiguous(memory_format=torch.channels_last))
