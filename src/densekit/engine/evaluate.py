"""Metrics of a network on a split, from one record per sample: any order or number of processes gives the same."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from densekit.data import Loader
from densekit.data.sets import SkipList
from densekit.engine.precision import autocast
from densekit.engine.processes import ALONE, World
from densekit.errors import BadData, BadImage

BINS = 15  # of the calibration error, as Guo et al. 2017


@dataclass(frozen=True)
class Records:
    """One row a sample, in the split's order."""

    sample: NDArray[np.int64]
    target: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    """Probability of the predicted class."""
    rank: NDArray[np.int64]
    """How many classes scored above the true one."""
    loss: NDArray[np.float64]
    """Cross entropy, without label smoothing."""


@dataclass(frozen=True)
class Result:
    """Metrics of one split; fractions, not percent."""

    model: str
    data: str
    split: str
    count: int
    top1: float
    top5: float
    loss: float
    ece: float
    """Expected calibration error, 15 equal bins, L1 (Guo et al. 2017)."""
    per_class: list[dict[str, Any]]
    confusion: list[list[int]]
    """Rows are true classes, columns predicted ones."""
    reliability: list[dict[str, float]]
    """Per bin: count, mean confidence, accuracy."""
    seconds: float
    skipped: list[dict[str, str]] = field(default_factory=list)


@torch.inference_mode()
def records(
    model: nn.Module,
    loader: Loader,
    *,
    skipped: SkipList,
    world: World = ALONE,
    advance: Callable[[int], None] = lambda _: None,
    precision: str = "float32",
) -> Records:
    """Runs `model` over the split in evaluation mode and leaves it in the mode it was in.

    Several processes each take some of the batches, and all get all records. Raises BadData for too many bad files.
    """
    was_training = model.training
    model.eval()
    rows: list[tuple[Tensor, ...]] = []
    failures: list[tuple[Path, BadImage]] = []
    for batch in loader.epoch():
        failures += batch.failures
        if world.size == 1:
            skipped.add_all(batch.failures)
        if not len(batch.samples):
            continue
        with autocast(batch.images.device, precision):
            logits = _logits(model, batch.images).float()
        probabilities = logits.softmax(1)
        confidence, predicted = probabilities.max(1)
        rank = _rank(logits, batch.targets)
        loss = F.cross_entropy(logits, batch.targets, reduction="none")
        row = (batch.samples, batch.targets, predicted, confidence.double(), rank, loss.double())
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
    order = np.argsort(whole[0], kind="stable")
    return Records(*(column[order] for column in whole))


def _rank(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, classes), (N,) -> (N,): classes ahead of the true one. Of equals the first is ahead; all are, of a NaN."""
    of_target = logits.gather(1, targets[:, None])
    later = torch.arange(logits.shape[1], device=logits.device) > targets[:, None]
    behind = (logits < of_target) | ((logits == of_target) & later)
    return (~behind).sum(1) - 1


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    """(N, C, H, W), or (N, 10, C, H, W) for ten crops, whose logits are averaged -> (N, classes)."""
    if images.ndim == 5:
        crops = model(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return crops.unflatten(0, images.shape[:2]).mean(1)
    return model(images.contiguous(memory_format=torch.channels_last))


def evaluate(
    model: nn.Module,
    loader: Loader,
    *,
    classes: tuple[str, ...],
    names: tuple[str, str, str],
    skipped: SkipList,
    world: World = ALONE,
    advance: Callable[[int], None] = lambda _: None,
    precision: str = "float32",
) -> tuple[Result, Records]:
    """The metrics of one split, and the records they came from. `names` are model, data and split."""
    started = time.perf_counter()
    rows = records(model, loader, skipped=skipped, world=world, advance=advance, precision=precision)
    model_name, data, split = names
    matrix = confusion_matrix(rows.target, rows.predicted, labels=range(len(classes)))
    bins = reliability(rows.confidence, rows.predicted == rows.target)
    return Result(
        model=model_name,
        data=data,
        split=split,
        count=len(rows.sample),
        top1=float((rows.predicted == rows.target).mean()),
        top5=float((rows.rank < 5).mean()),
        loss=float(rows.loss.mean()),
        ece=sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(rows.sample),
        per_class=_per_class(matrix, classes),
        confusion=matrix.tolist(),
        reliability=bins,
        seconds=time.perf_counter() - started,
        skipped=skipped.rows(),
    ), rows


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Equal bins of confidence: how many, how sure, how often right. Empty bins are left out."""
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        {
            "lower": b / BINS,
            "upper": (b + 1) / BINS,
            "count": int((index == b).sum()),
            "confidence": float(confidence[index == b].mean()),
            "accuracy": float(correct[index == b].mean()),
        }
        for b in range(BINS)
        if (index == b).any()
    ]


def _per_class(matrix: NDArray[np.int64], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    hits, actual, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    return [
        {
            "class": name,
            "count": int(actual[i]),
            # Of a class that was never predicted, or never there, the share is not known.
            "precision": float(hits[i] / predicted[i]) if predicted[i] else None,
            "recall": float(hits[i] / actual[i]) if actual[i] else None,
        }
        for i, name in enumerate(classes)
    ]
