"""What a network's outputs mean: how they are trained, recorded and measured. The one place that knows the kinds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from densekit.config import Recipe
from densekit.data import DataSet
from densekit.data.sets import class_counts
from densekit.engine import single_label
from densekit.engine.multi_label import MultiLabel, MultiLabelRecords, MultiLabelResult
from densekit.engine.single_label import SingleLabel
from densekit.outputs import check_outputs
from densekit.weights import ModelCard

Task = SingleLabel | MultiLabel
Result = single_label.Result | MultiLabelResult
Records = single_label.Records | MultiLabelRecords


def task_for(data: DataSet, recipe: Recipe, device: torch.device) -> Task:
    """Of data that are to be trained on, with the recipe's loss."""
    weights = balanced(data).to(device) if recipe.class_weights == "balanced" else None
    if not data.multi_label:
        return SingleLabel(data.classes, weights, recipe.label_smoothing)
    known = (~data.splits["train"].labels.isnan()).sum(1).double().mean().item()
    return MultiLabel(data.classes, weights, recipe.label_smoothing, known)


def task_of(card: ModelCard) -> Task:
    """Of a trained model. Raises BadWeights for one output with a softmax, which is 1 for every image."""
    check_outputs(card.task, card.classes, card.model.name)
    if card.task == "single-label":
        return SingleLabel(card.classes)
    return MultiLabel(card.classes, thresholds=card.thresholds)


def finite_rows(logits: Tensor) -> Tensor:
    """(N, classes) -> (N,) bool: whether an image has finite logits, no further apart than the largest float.

    Probabilities do not show it: the sigmoid of an infinite logit is 1.
    """
    return (logits - logits.amax(1, keepdim=True)).isfinite().all(1)


def result_from(document: Mapping[str, Any]) -> Result:
    """What result.json holds."""
    return MultiLabelResult(**document) if "auroc" in document else single_label.Result(**document)


def no_better(result: Result) -> str | None:
    """In words, that a result is no better than always naming the commonest class, or than chance; else None."""
    if isinstance(result, MultiLabelResult):
        if result.auroc is None or result.auroc > 0.5:
            return None
        return f"AUROC {result.auroc:.2f} is no better than chance (0.50): the network has learned nothing of use"
    commonest = max(result.per_class, key=lambda row: row["count"])
    share = commonest["count"] / result.count
    if result.top1 > share:
        return None
    return (
        f"top-1 {result.top1:.1%} is no better than always answering {commonest['class']}, the commonest class of "
        f"{result.split} ({share:.1%}): the network has learned nothing of use"
    )


def balanced(data: DataSet) -> Tensor:
    """Float32, inverse to how many training images there are of each, and 1 on average over these.

    Of single labels (classes,). Of several (2, classes), where an image is not of the class and where it is: what torch
    calls pos_weight is the second divided by the first.
    """
    images = data.splits["train"]
    counts = torch.tensor(class_counts(images, data.classes), dtype=torch.float64)
    if data.multi_label:
        both = torch.stack(((images.labels == 0).sum(0).double(), counts))
        # A class that is always or never there has nothing to balance.
        return torch.where((both > 0).all(0), both.sum(0) / (2 * both.clamp(min=1)), 1).float()
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0).float()
