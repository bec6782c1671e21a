"""Metrics agree with torchmetrics, which was written by others."""

from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as peers
from torch import Tensor, nn

from densekit.config import Preprocessing
from densekit.data import Loader
from densekit.data.sets import ArrayImages, SkipList
from densekit.metrics.evaluation_loop import evaluate
from densekit.metrics.single_label import SingleLabel

CLASSES = 7


class Fixed(nn.Module):
    """Logits that the pixels spell out."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0] * 6


@pytest.fixture(scope="module")
def case() -> tuple[Any, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    # No two alike in an image: peers break ties of the fifth place in their own way.
    pixels = (torch.rand(333, 1, 1, CLASSES, generator=generator).argsort(-1) * 30).to(torch.uint8)
    targets = torch.randint(0, CLASSES - 1, (333,), generator=generator)  # the last class never occurs
    preprocessing = Preprocessing(channels=1, size=(1, CLASSES), resize=1, mean=(0.0,), std=(1.0,))
    loader = Loader(ArrayImages(pixels, targets), preprocessing, 50)
    names = tuple(f"c{i}" for i in range(CLASSES))
    result, _ = evaluate(Fixed(), loader, task=SingleLabel(names), names=("m", "d", "s"), skipped=SkipList(0))
    return result, Fixed()(pixels.float() / 255), targets


def test_accuracies_and_loss(case: tuple[Any, Tensor, Tensor]) -> None:
    result, logits, targets = case
    for k, ours in ((1, result.top1), (5, result.top5)):
        theirs = peers.multiclass_accuracy(logits, targets, CLASSES, average="micro", top_k=k)
        assert ours == pytest.approx(theirs.item())
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)


def test_calibration_error(case: tuple[Any, Tensor, Tensor]) -> None:
    result, logits, targets = case
    theirs = peers.multiclass_calibration_error(logits.softmax(1), targets, CLASSES, n_bins=15, norm="l1")
    assert result.ece == pytest.approx(theirs.item(), rel=1e-4)
    assert sum(row["count"] for row in result.reliability) == 333


def test_confusion_and_per_class(case: tuple[Any, Tensor, Tensor]) -> None:
    result, logits, targets = case
    assert np.array_equal(result.confusion, peers.multiclass_confusion_matrix(logits, targets, CLASSES))
    recall = peers.multiclass_recall(logits, targets, CLASSES, average="none")
    precision = peers.multiclass_precision(logits, targets, CLASSES, average="none")
    for i, row in enumerate(result.per_class[:-1]):
        assert row["recall"] == pytest.approx(recall[i].item())
        assert row["precision"] == pytest.approx(precision[i].item())
    assert result.per_class[-1]["recall"] is None
