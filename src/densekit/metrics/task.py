"""What a network's outputs mean: how they are trained, recorded and measured. The one place that knows the kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from densekit.config import Recipe
from densekit.data import DataSet
from densekit.data.sets import class_counts
from densekit.errors import InvalidInput, UnknownName
from densekit.metrics import single_label
from densekit.metrics.binary import Measures
from densekit.metrics.multi_label import MultiLabel, MultiLabelRecords, MultiLabelResult
from densekit.metrics.single_label import SingleLabel
from densekit.outputs import check_outputs
from densekit.weights import ModelCard

Task = SingleLabel | MultiLabel
Result = single_label.Result | MultiLabelResult
Records = single_label.Records | MultiLabelRecords


def task_for(data: DataSet, recipe: Recipe, device: torch.device) -> Task:
    """Of data that are to be trained on, with the recipe's loss."""
    weights = balanced(data).to(device) if recipe.class_weights == "balanced" else None
    smoothing, binary = recipe.label_smoothing, len(data.classes) <= 2 - data.multi_label
    rule = recipe.threshold or ("youden" if binary else "f1")
    if not data.multi_label:
        positive = positive_of(data.classes, recipe.data.positive)
        return SingleLabel(data.classes, weights, smoothing, rule=rule, positive=positive)
    known = (~data.splits["train"].labels.isnan()).sum(1).double().mean().item()
    return MultiLabel(data.classes, weights, smoothing, known, rule=rule)


def task_of(card: ModelCard, positive: str | None = None) -> Task:
    """Of a trained model; `positive` is its positive class of two, if not the one that it was trained with.

    Raises BadWeights for one output with a softmax, which is 1 for every image; UnknownName, InvalidInput.
    """
    check_outputs(card.task, card.classes, card.model.name)
    if card.task == "single-label":
        wanted = positive or (card.data.positive if card.data is not None else None)
        return SingleLabel(card.classes, thresholds=card.thresholds, positive=positive_of(card.classes, wanted))
    return MultiLabel(card.classes, thresholds=card.thresholds)


def positive_of(classes: Sequence[str], positive: str | None) -> str | None:
    """The same. Raises UnknownName where it is none of two classes, InvalidInput where there are more."""
    if positive is None or (len(classes) == 2 and positive in classes):
        return positive
    if len(classes) != 2:
        raise InvalidInput(f"data.positive={positive} is for two classes, and there are {len(classes):,}; leave it out")
    raise UnknownName("class", positive, classes)


def finite_rows(logits: Tensor) -> Tensor:
    """(N, classes) -> (N,) bool: whether an image has finite logits, no further apart than the largest float.

    Probabilities do not show it: the sigmoid of an infinite logit is 1.
    """
    return (logits - logits.amax(1, keepdim=True)).isfinite().all(1)


def result_from(document: Mapping[str, Any]) -> Result:
    """What result.json holds. Raises TypeError for anything else."""
    if not isinstance(document, Mapping):
        raise TypeError("a result is a mapping")
    document = {key: value for key, value in document.items() if key != "no_better"}
    return single_label.Result(**document) if "confusion" in document else MultiLabelResult(**document)


def document_of(result: Result) -> dict[str, Any]:
    """What JSON says of a result: without binary metrics and intervals that it has not; with `no_better`, if it is."""
    optional = {each.name for each in fields(Measures)}
    document = {key: value for key, value in asdict(result).items() if key not in optional or value not in (None, [])}
    return document if (words := no_better(result)) is None else document | {"no_better": words}


def no_better(result: Result) -> str | None:
    """In words, that a result is no better than always naming the commonest class, or than chance; else None."""
    if isinstance(result, MultiLabelResult):
        if result.auroc is None or result.auroc > 0.5:
            return None
        return f"AUROC {result.auroc:.2f} is no better than chance (0.50): the network has learned nothing of use"
    commonest = max(result.per_class, key=lambda row: row["count"])
    share = commonest["count"] / result.count
    if result.top1 > share or share == 1:  # of one class alone there is nothing to tell apart
        return None
    words = (
        f"top-1 {result.top1:.1%} is no better than always answering {commonest['class']}, the commonest class of "
        f"{result.split} ({share:.1%})"
    )
    if result.auroc is not None and result.auroc > 0.5:
        return f"{words}; by its probabilities it is better than chance (AUROC {result.auroc:.2f}): use the threshold"
    return f"{words}: the network has learned nothing of use"


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
