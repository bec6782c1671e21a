"""Metrics with a weight for each image, differentiable in the weights: what `bootstrap` resamples.

Shapes: N images, R sets of weights, M metrics, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Ratios:
    """Metrics that are a sum over a sum, such as accuracy: weights (R, N) -> (M, R), NaN for 0/0."""

    above: Tensor
    """(N, M) float64."""
    below: Tensor
    """(N, M) float64."""

    @classmethod
    def of(cls, *pairs: tuple[NDArray[np.generic], NDArray[np.generic]]) -> "Ratios":
        """From (N,) numerators and denominators."""
        above, below = (np.stack([pair[i].astype(np.float64) for pair in pairs], 1) for i in range(2))
        return cls(torch.from_numpy(above), torch.from_numpy(below))

    def __call__(self, weights: Tensor) -> Tensor:
        """(R, N) -> (M, R)."""
        return ((weights @ self.above) / (weights @ self.below)).T


class Ranking:
    """AUROC and average precision of one label, by one sort: weights (R, N) -> (2, R).

    Ties count half in AUROC (Mann and Whitney 1947), and are taken together in average precision, as scikit-learn does.
    """

    def __init__(self, target: NDArray[np.bool_], score: NDArray[np.float64], known: NDArray[np.bool_]) -> None:
        at = np.flatnonzero(known)
        order = at[np.argsort(-score[at], kind="stable")]
        self._order = torch.from_numpy(order)
        self._positive = torch.from_numpy(target[order].astype(np.float64))
        ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
        self._ends = None if len(ends) == len(order) else torch.from_numpy(ends)

    def __call__(self, weights: Tensor) -> Tensor:
        """(R, N) -> (2, R)."""
        weights = weights[:, self._order]
        positive = weights * self._positive
        hits, taken = positive.cumsum(1), weights.cumsum(1)
        if self._ends is not None:
            hits, taken = hits[:, self._ends], taken[:, self._ends]
            positive = torch.diff(hits, dim=1, prepend=hits.new_zeros(len(hits), 1))
        false = taken - hits
        positives, negatives = hits[:, -1], false[:, -1]
        # Of the negatives below a positive, those of the same score by half.
        before = torch.cat((false.new_zeros(len(false), 1), false[:, :-1]), 1)
        area = (positive * (negatives[:, None] - (false + before) / 2)).sum(1) / (positives * negatives)
        precision = (positive * hits / taken.clamp(min=torch.finfo(torch.float64).tiny)).sum(1) / positives
        return torch.stack((area, precision))


class MeanRecall:
    """Balanced accuracy: the mean, over the classes that are there, of the share of their images that are right."""

    def __init__(self, target: NDArray[np.int64], right: NDArray[np.bool_]) -> None:
        self._target = torch.from_numpy(np.unique(target, return_inverse=True)[1].reshape(-1))
        self._right = torch.from_numpy(right.astype(np.float64))

    def __call__(self, weights: Tensor) -> Tensor:
        """(R, N) -> (1, R)."""
        zeros = weights.new_zeros(len(weights), int(self._target.max()) + 1)
        hits = zeros.index_add(1, self._target, weights * self._right)
        counts = zeros.index_add(1, self._target, weights)
        return ((hits / counts.clamp(min=1)).sum(1) / (counts > 0).sum(1))[None]


class CalibrationError:
    """Expected calibration error: weights (R, N) -> (1, R)."""

    def __init__(self, gaps: NDArray[np.float64], counts: NDArray[np.float64]) -> None:
        """`gaps` (N, bins): correct minus confidence, summed over an image's answers by bin; `counts` (N,) answers."""
        self._gaps, self._counts = torch.from_numpy(gaps), torch.from_numpy(counts)

    def __call__(self, weights: Tensor) -> Tensor:
        """(R, N) -> (1, R)."""
        return ((weights @ self._gaps).abs().sum(1) / (weights @ self._counts))[None]
