"""The bootstrap (Efron 1987) of any metric that can be written with a weight for each image.

A statistic is a function of weights (R, N), how often each of N images is in each of R samples, to M values (M, R).
The same function gives the values on the resamples and, by its gradient where all weights are 1, the influence of each.

Shapes: N images, U sampling units (images, or groups of them), R resamples, M metrics.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEVEL = 0.95
RESAMPLES = 1000
_SEED = 0
_CELLS = 1 << 18
"""Weights that are held at once: 2 MB, which a cache holds."""
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

Statistic = Callable[[Tensor], Tensor]
Interval = list[float]
"""[low, high]."""


@dataclass(frozen=True)
class Units:
    """What is drawn with replacement: images, or groups of images, such as patients, that belong together."""

    images: int
    groups: Sequence[str] | None = None
    """(N,); none: each image by itself."""

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """(N,): the unit of each image."""
        if self.groups is None:
            return np.arange(self.images)
        return np.unique(np.array(self.groups, dtype=str), return_inverse=True)[1].reshape(-1).astype(np.int64)

    @cached_property
    def count(self) -> int:
        """U."""
        return len(np.unique(self.codes))

    @property
    def independent(self) -> bool:
        """Whether each image is a unit."""
        return self.count == self.images

    def holding(self, images: NDArray[np.bool_]) -> int:
        """How many units have one of these images, given as (N,)."""
        return len(np.unique(self.codes[images]))


@dataclass(frozen=True)
class Sampled:
    """A metric of the images, its values on the resamples, and how much each unit moves it."""

    estimate: float
    replicates: NDArray[np.float64]
    """(R,), NaN where it is not defined, as AUROC is not without positives."""
    influence: NDArray[np.float64]
    """(U,): the infinitesimal jackknife (Jaeckel 1972)."""

    @classmethod
    def mean(cls, several: Sequence["Sampled"]) -> "Sampled":
        """The mean of metrics; on a resample, of those that are defined there."""
        replicates = np.stack([each.replicates for each in several])
        there = (~np.isnan(replicates)).sum(0)
        return cls(
            float(np.mean([each.estimate for each in several])),
            np.where(there > 0, np.nansum(replicates, 0) / np.maximum(there, 1), np.nan),
            np.mean([each.influence for each in several], axis=0),
        )

    @property
    def constant(self) -> bool:
        """Whether the resamples show no variation, as of an accuracy of 1."""
        known = self.replicates[~np.isnan(self.replicates)]
        return len(known) == 0 or bool(np.ptp(known) < 1e-12)


def sampled(
    statistics: Mapping[tuple[str, ...], Statistic], units: Units, resamples: int = RESAMPLES, seed: int = _SEED
) -> dict[str, Sampled]:
    """Metrics on resamples of the units.

    Args:
        statistics: By the names of the metrics that each gives.
        units: What is drawn.
        resamples: R.
        seed: The same seed draws the same units.
    """
    random = np.random.default_rng(seed)
    codes, count = torch.from_numpy(units.codes), units.count
    rows = max(1, _CELLS // units.images)
    parts: dict[tuple[str, ...], list[Tensor]] = {names: [] for names in statistics}
    for start in range(0, resamples, rows):
        drawn = min(rows, resamples - start)
        flat = random.integers(0, count, (drawn, count)) + count * np.arange(drawn)[:, None]
        times = torch.from_numpy(np.bincount(flat.reshape(-1), minlength=drawn * count).reshape(drawn, count)).double()
        weights = times if units.groups is None else times[:, codes]
        for names, statistic in statistics.items():
            parts[names].append(statistic(weights))
    found: dict[str, Sampled] = {}
    for names, statistic in statistics.items():
        replicates = torch.cat(parts[names], 1).numpy()
        for name, row, (estimate, influence) in zip(names, replicates, _influences(statistic, units), strict=True):
            found[name] = Sampled(estimate, row, influence)
    return found


def _influences(statistic: Statistic, units: Units) -> list[tuple[float, NDArray[np.float64]]]:
    weights = torch.ones(1, units.images, dtype=torch.float64, requires_grad=True)
    found = []
    for value in statistic(weights)[:, 0]:
        (gradient,) = torch.autograd.grad(value, weights, retain_graph=True)
        moved: NDArray[np.float64] = np.bincount(units.codes, gradient[0].double().numpy(), units.count)  # type: ignore[assignment]  # with weights, floats
        found.append((value.item(), moved))
    return found


def bca(metric: Sampled) -> Interval | None:
    """Bias-corrected and accelerated interval (Efron 1987); none where the resamples do not vary.

    The acceleration is of the influence, so that no jackknife over the images is needed.
    """
    from scipy.special import ndtr, ndtri  # slow to import, and of no use to a prediction

    if metric.constant or not np.isfinite(metric.estimate):
        return None
    values = metric.replicates[~np.isnan(metric.replicates)]
    below = (values < metric.estimate - 1e-12).mean() + (abs(values - metric.estimate) <= 1e-12).mean() / 2
    bias = ndtri(np.clip(below, 1 / len(values), 1 - 1 / len(values)))
    square = (metric.influence**2).sum()
    acceleration = (metric.influence**3).sum() / (6 * square**1.5) if square > 0 else 0.0
    shifted = bias + np.array([-Z, Z])
    low, high = np.quantile(values, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return [float(low), float(high)]


def basic(metric: Sampled) -> Interval | None:
    """Percentiles mirrored at the estimate (basic bootstrap): for a metric that resampling biases upwards, as ECE.

    It ends at 0, and holds the estimate even where the bias is larger than the noise.
    """
    if metric.constant:
        return None
    low, high = np.nanquantile(metric.replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [max(0.0, float(2 * metric.estimate - high)), max(metric.estimate, float(2 * metric.estimate - low))]


def wilson(share: float, count: float) -> Interval:
    """Of a share of `count` independent cases (Wilson 1927)."""
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * np.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return [max(0.0, float(middle - half)), min(1.0, float(middle + half))]
