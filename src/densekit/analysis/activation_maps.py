"""Class activation maps, by captum, each with a check of whether it follows the weights at all.

Some maps look right whatever the network has learned, because they draw the image's edges (Adebayo et al. 2018): so
each is computed again on the same network with random weights. A map that stays explains nothing.

Of several labels a map is of one label in one image, where the network says that it is there.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.analysis.image_sample import Sample, calibrate, untrained
from densekit.analysis.observations import rank_correlation
from densekit.attribution.grad_cam import grad_cam, layer_for, require
from densekit.metrics.multi_label import MultiLabel
from densekit.metrics.task import task_of
from densekit.models import DenseNet
from densekit.weights import ModelCard

FOLLOWS = 0.5  # correlation with a random network's map up to which a map is the weights' doing
_SEEDS = 5  # random networks
_EACH = 4  # predictions of a kind
_LABELS = 8  # of several labels, as many right ones: each of another label as far as there are
ABSENT = "absent"  # in truth, of a label that was predicted


@dataclass(frozen=True)
class ActivationMap:
    """One prediction, and where in the image the network saw reasons for it.

    Of several labels `predicted` is the one that the map is of, and `true` is the same, or `ABSENT`.
    """

    sample: int
    """Position among the images looked at."""
    true: str
    predicted: str
    confidence: float
    map: NDArray[np.float64]
    """(h, w): positive where the image speaks for the predicted class."""
    randomised: NDArray[np.float64]
    """(h, w), of the first of the random networks."""
    cascade: list[float]
    """Rank correlation of the map with that of the network randomised so far, for each of the steps."""
    correlation: float
    """Mean size of that with wholly random networks, 0 to 1."""
    follows: bool
    """Whether the map is the weights' doing."""


@dataclass(frozen=True)
class ActivationMaps:
    """A few predictions."""

    layer: str
    """Whose maps are weighted: the last ones are class activation maps, others Grad-CAM."""
    steps: list[str]
    """What is random, from the classifier down to all of it."""
    items: list[ActivationMap]


def activation_maps(model: DenseNet, card: ModelCard, sample: Sample) -> ActivationMaps:
    """Maps of a few right and wrong predictions. Raises InvalidInput without captum."""
    require()
    chosen = _choose(model, card, sample)
    if not chosen:
        return ActivationMaps("last maps", [], [])
    images = sample.images[[each.row for each in chosen]]
    predicted = torch.tensor([each.predicted for each in chosen], dtype=torch.int64, device=images.device)
    block = layer_for(model, images[:1])
    maps = grad_cam(model, images, predicted, block)
    steps, cascade = _cascade(model, card, sample)
    by_step = [grad_cam(network, images, predicted, block) for network in cascade]
    whole = [by_step[-1]]
    whole += [grad_cam(untrained(card, sample, 1_000 + seed), images, predicted, block) for seed in range(1, _SEEDS)]  # type: ignore[arg-type]  # a DenseNet, as its card says
    items = []
    for i, each in enumerate(chosen):
        # A map that is the same everywhere agrees with nothing.
        correlation = float(np.mean([abs(np.nan_to_num(rank_correlation(maps[i], other[i]))) for other in whole]))
        items.append(
            ActivationMap(
                each.row,
                each.true,
                card.classes[each.predicted],
                each.confidence,
                maps[i],
                whole[0][i],
                [rank_correlation(maps[i], other[i]) for other in by_step],
                correlation,
                correlation <= FOLLOWS,
            )
        )
    return ActivationMaps(f"dense block {block}" if block else "last maps", steps, items)


class _Chosen(NamedTuple):
    """A prediction to explain: of which image, which class, and what is true."""

    row: int
    predicted: int
    true: str
    confidence: float


@torch.no_grad()
def _choose(model: DenseNet, card: ModelCard, sample: Sample) -> list[_Chosen]:
    """Some predictions: right ones of different classes, and the surest wrong ones."""
    task = task_of(card)
    probabilities = torch.cat([task.probabilities(model(images)) for images, _ in sample.chunks()])
    if isinstance(task, MultiLabel):
        taken = probabilities >= torch.tensor(task.decisions(), device=probabilities.device)
        return _labels(card.classes, probabilities, taken, sample.targets)
    confidence, predicted = probabilities.max(1)
    right = (predicted == sample.targets).nonzero()[:, 0].tolist()
    wrong = (predicted != sample.targets).nonzero()[:, 0]
    of_class = {int(sample.targets[row]): row for row in reversed(right)}
    few = [*dict.fromkeys([*sorted(of_class.values()), *right])][:_EACH]
    surest = wrong[confidence[wrong].argsort(descending=True, stable=True)][:_EACH].tolist()
    return [
        _Chosen(row, int(predicted[row]), card.classes[int(sample.targets[row])], float(confidence[row]))
        for row in [*few, *surest]
    ]


def _labels(classes: Sequence[str], probabilities: Tensor, taken: Tensor, targets: Tensor) -> list[_Chosen]:
    """Of each label the surest image that has it, up to `_LABELS` labels; then the surest images that have not."""
    right: list[_Chosen] = []
    wrong: list[_Chosen] = []
    for i, name in enumerate(classes):
        for target, true, kept in ((1, name, right), (0, ABSENT, wrong)):
            rows = (taken[:, i] & (targets[:, i] == target)).nonzero()[:, 0]
            surest = rows[probabilities[rows, i].argsort(descending=True, stable=True)].tolist()
            kept += [_Chosen(row, i, true, float(probabilities[row, i])) for row in surest[: 1 if target else _EACH]]
    return right[:_LABELS] + sorted(wrong, key=lambda each: -each.confidence)[:_EACH]


def _cascade(model: DenseNet, card: ModelCard, sample: Sample) -> tuple[list[str], Sequence[DenseNet]]:
    """The network with more and more of it random, from the classifier down; the last is random as a whole."""
    fresh = untrained(card, None, 1_000).to(sample.images.device)
    parts: list[tuple[str, list[str]]] = [("classifier", ["classifier."])]
    for name, _ in reversed(list(model.features.named_children())):
        if name.startswith("denseblock"):
            parts.append((f"block {name.removeprefix('denseblock')}", [f"features.{name}."]))
        else:  # norm5, a transition, or a part of the stem goes with what is above it
            parts[-1][1].append(f"features.{name}.")
    names, networks = [], []
    mixed = model
    state = fresh.state_dict()
    for name, prefixes in parts:
        mixed = copy.deepcopy(mixed)
        mixed.load_state_dict(
            {key: value for key, value in state.items() if key.startswith(tuple(prefixes))}, strict=False
        )
        calibrate(mixed, sample)
        names.append(name)
        networks.append(mixed)
    return names, networks
