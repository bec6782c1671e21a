"""Whether percentages can be taken at their word: how sure, and how often right."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15  # as Guo et al. 2017


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[dict[str, float]]:
    """Equal bins of confidence: how many, how sure, how often right. Empty bins are left out."""
    index = _bin(confidence)
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


def gaps(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], known: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """(N,) or (N, labels) -> (N, 15): correct minus confidence, summed over an image's answers in each bin.

    The absolute sums over the images, added and divided by the number of answers, are the expected calibration error.
    """
    index = _bin(confidence).reshape(len(confidence), -1)
    gap = np.where(True if known is None else known, correct - confidence, 0.0).reshape(index.shape)
    found = np.zeros((len(confidence), BINS))
    np.add.at(found, (np.arange(len(confidence))[:, None], index), gap)
    return found


def _bin(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    index: NDArray[np.int64] = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return index


def expected_error(bins: Sequence[dict[str, Any]], count: int) -> float:
    """Expected calibration error, L1 (Guo et al. 2017), of `reliability`'s bins."""
    return float(sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / count)
