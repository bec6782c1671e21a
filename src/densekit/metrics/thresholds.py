"""Which probability separates present from absent, chosen on validation images.

Shapes: N images of which the label is known.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

UNDECIDED = 0.5
"""Where validation cannot choose one."""

_Choice = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]


def choose(rule: str, target: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """A threshold, midway between the lowest score that is taken and the next below.

    Args:
        rule: "youden", "f1", or "sensitivity:S".
        target: (N,).
        score: (N,) probabilities.

    Returns:
        1/2 where all images are of the label, or none is.
    """
    if not 0 < target.sum() < len(target):
        return UNDECIDED
    name, _, wanted = rule.partition(":")
    if name == "f1":
        return best_f1(target, score)
    return best_youden(target, score) if name == "youden" else for_sensitivity(target, score, float(wanted))


def best_youden(target: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Where Youden's J (1950), sensitivity + specificity - 1, is highest; of equals the highest threshold."""
    scores, sensitivity, false = _rates(target, score)
    return _below(scores, int((sensitivity - false).argmax()))


def for_sensitivity(target: NDArray[np.bool_], score: NDArray[np.float64], wanted: float) -> float:
    """The highest threshold that has at least this sensitivity."""
    scores, sensitivity, _ = _rates(target, score)
    return _below(scores, int((sensitivity >= wanted - 1e-12).argmax()))


def best_f1(target: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Where F1 is highest; of equals the lowest threshold."""
    from sklearn.metrics import precision_recall_curve  # slow to import, and of no use to a prediction

    precision, recall, scores = precision_recall_curve(target, score)
    # No row is 0/0: at every score something is taken, and where none of it is right both are 0.
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return _below(scores[::-1], len(scores) - 1 - int(f1[:-1].argmax()))


def _rates(
    target: NDArray[np.bool_], score: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scores from the highest on; and where these are the threshold: sensitivity, and 1 - specificity."""
    from sklearn.metrics import roc_curve

    false, sensitivity, scores = roc_curve(target, score, drop_intermediate=False)
    return scores[1:], sensitivity[1:], false[1:]  # without the first point, which takes no image


def _below(scores: NDArray[np.float64], at: int) -> float:
    """Midway between a score and the next lower one, so that rounding decides no image."""
    return float((scores[at] + (scores[at + 1] if at + 1 < len(scores) else 0.0)) / 2)
