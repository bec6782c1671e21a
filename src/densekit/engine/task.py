"""What a network's outputs mean: how they are trained, recorded and measured. The one place that knows the kinds."""

import torch
from torch import Tensor

from densekit.config import Recipe
from densekit.data import DataSet
from densekit.data.sets import class_counts
from densekit.engine import single_label
from densekit.weights import ModelCard

Task = single_label.SingleLabel
Result = single_label.Result
Records = single_label.Records


def task_for(data: DataSet, recipe: Recipe, device: torch.device) -> Task:
    """Of data that are to be trained on, with the recipe's loss."""
    weights = balanced(data).to(device) if recipe.class_weights == "balanced" else None
    return single_label.SingleLabel(data.classes, weights, recipe.label_smoothing)


def task_of(card: ModelCard) -> Task:
    """Of a trained model."""
    return single_label.SingleLabel(card.classes)


def balanced(data: DataSet) -> Tensor:
    """(classes,) float32: inverse to a class's number of training images, 1 on average over these."""
    counts = torch.tensor(class_counts(data.splits["train"], data.classes), dtype=torch.float64)
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 0).float()
