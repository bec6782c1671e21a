"""class_weights=balanced beside scikit-learn's class weights: one label, several, and one that is there or not."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from densekit.data.sets import ArrayImages, DataSet
from densekit.metrics.multi_label import MultiLabel
from densekit.metrics.task import balanced

NAN = float("nan")


def data(labels: torch.Tensor, classes: int) -> DataSet:
    images = ArrayImages(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)
    return DataSet("made", tuple(map(str, range(classes))), {"train": images})


def reference(values: np.ndarray) -> list[float]:
    return compute_class_weight("balanced", classes=np.unique(values), y=values).tolist()


def test_of_one_label() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    assert balanced(data(labels, 3)).tolist() == pytest.approx(reference(labels.numpy()))


@pytest.mark.parametrize("classes", [1, 4])
def test_of_several_labels_by_label_with_the_unknown_left_out(classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.choice([0.0, 1.0, NAN], (60, classes), p=[0.7, 0.2, 0.1]).astype(np.float32)
    weights = balanced(data(torch.from_numpy(labels), classes))
    for column, found in zip(labels.T, weights.T.tolist(), strict=True):
        assert found == pytest.approx(reference(column[~np.isnan(column)]), rel=1e-6)


def test_what_is_rare_and_what_is_not_pull_alike_on_an_undecided_network() -> None:
    """At logit 0 the gradient of the bias is none, however few images have the label."""
    labels = torch.tensor([[1.0]] * 3 + [[0.0]] * 17 + [[NAN]] * 5)
    task = MultiLabel(("ill",), balanced(data(labels, 1)), known=0.8)
    bias = torch.zeros(1, requires_grad=True)
    task.loss(bias.expand(len(labels), 1), labels).backward()
    assert bias.grad is not None
    assert bias.grad.item() == pytest.approx(0, abs=1e-5)
