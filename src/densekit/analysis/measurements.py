"""What an analysis is asked for and what it finds, as data."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from densekit.analysis.ablation import Removal
from densekit.analysis.activation_maps import ActivationMaps
from densekit.analysis.error_metrics import Metric
from densekit.analysis.gradients import Flow
from densekit.analysis.image_sample import Sample
from densekit.analysis.observations import Observation
from densekit.analysis.probes import Probes
from densekit.analysis.reuse import Map
from densekit.models import ImageClassifier
from densekit.weights import ModelCard

PARTS = ("weights", "ablation", "gradients", "probes", "maps")
"""What can be left out, but for the weights; all the others need images."""
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Network:
    """A trained network, by the name it was given."""

    name: str
    model: ImageClassifier
    card: ModelCard


@dataclass(frozen=True)
class Request:
    """What to look at."""

    network: Network
    twins: tuple[Network, ...] = ()
    """The same architecture trained with other seeds."""
    beside: Network | None = None
    """A trained residual network, to compare gradients and probes with."""
    parts: tuple[str, ...] = PARTS
    test: Sample | None = None
    """Images that were not trained on; without them only the weights are looked at."""
    train: Sample | None = None
    """Images to fit linear probes to."""
    ablation_images: int | None = None
    """None: as many of `test` as some minutes allow."""


@dataclass(frozen=True)
class BlockReuse:
    """Figure 5 of one block in all its forms; none where there were no images."""

    block: int
    sources: list[str]
    readers: list[str]
    weight: Map
    gamma: Map
    activation: Map | None
    ablation: Map | None
    ablation_error: Map | None
    untrained_weight: Map
    untrained_activation: Map | None
    stochastic_depth: Map
    agreement: float
    """Rank correlation of stochastic depth's map with `weight`, over the layers' connections."""
    untrained_agreement: float


@dataclass(frozen=True)
class Edges:
    """What the connections are worth, and the error without more and more of them."""

    images: int
    loss: float
    ranking: list[dict[str, Any]]
    """The one least missed first: block, source, reader, rise of the loss, its standard error."""
    missed: int
    """Connections without which the loss rises by more than two standard errors; of the others nobody can tell."""
    curves: list[Removal]
    curve_images: int


@dataclass(frozen=True)
class Analysis:
    """All findings; what was not looked at is none."""

    model: str
    twins: list[str]
    data: str | None
    split: str | None
    images: int
    blocks: list[BlockReuse]
    observations: dict[str, list[Observation]]
    """By form: weight, the paper's, and gamma, activation, ablation."""
    edges: Edges | None
    gradients: list[Flow] | None
    matched: str | None
    """The residual network beside it."""
    probes: list[Probes] | None
    accuracy: float | None
    """Of the network itself, on the images that the probes are measured on; of several labels their mean AUROC."""
    maps: ActivationMaps | None
    metric: Metric
    """What `accuracy`, the probes and, as one minus it, the curves of `edges` are."""


def as_dict(found: Any) -> Any:
    """As JSON takes it: arrays as nested lists, what is not a number as null."""
    if is_dataclass(found) and not isinstance(found, type):
        return {f.name: as_dict(getattr(found, f.name)) for f in fields(found)}
    if isinstance(found, dict):
        return {key: as_dict(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [as_dict(value) for value in found]
    if isinstance(found, np.ndarray):
        return as_dict(found.tolist())
    if isinstance(found, float | np.floating):
        return float(found) if np.isfinite(found) else None
    return found
