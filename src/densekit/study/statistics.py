"""Errors of several seeds: mean and spread, and whether two arms differ, paired by seed.

The numbers are shares, not percent. What a test on so few runs can say stands in `words_on`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["lower", "higher", "not told apart", "too few seeds"]

LEVEL = 0.05
"""Of significance, over all comparisons of a study together."""
_SAME = 1e-12  # what differs less is rounding: errors are counts over counts
_MOST_EXACT = 13  # seeds; beyond, the signs of all differences can be drawn in too many ways


@dataclass(frozen=True)
class Summary:
    """Of one arm's errors."""

    count: int
    mean: float
    deviation: float | None
    """Standard deviation of the runs (n - 1); None for one run."""


@dataclass(frozen=True)
class Comparison:
    """`first` against `second`, on the seeds that both have."""

    first: str
    second: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    """Error of `first` less error of `second`, by seed."""
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    """95 % confidence interval of the mean difference, by Student's t."""
    p: float | None
    """Two-sided, of the paired t test; None where there is nothing to test."""
    p_signs: float | None
    """Two-sided and exact, of the sign-flip test, which assumes nothing but symmetry."""
    p_least: float | None
    """The smallest value that `p_signs` can have with so many seeds: 2 / 2^n."""
    p_holm: float | None
    """`p`, corrected for all comparisons of the study (Holm 1979)."""
    verdict: Verdict
    """Of the first arm's error, by `p_holm` at `LEVEL`."""


def summarise(errors: Sequence[float]) -> Summary:
    """Raises ValueError for no error at all."""
    if not errors:
        raise ValueError("there is nothing to summarise")
    deviation = float(np.std(errors, ddof=1)) if len(errors) > 1 else None
    return Summary(len(errors), float(np.mean(errors)), deviation)


def compare(errors: Mapping[str, Mapping[int, float]], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Of errors by arm and seed; pairs that share no seed are left out. p values are corrected together."""
    found = [_compare(first, second, errors) for first, second in pairs]
    shared = [comparison for comparison in found if comparison.seeds]
    tested = [comparison.p for comparison in shared if comparison.p is not None]
    corrected = iter(holm(tested))
    return [_judged(each, next(corrected) if each.p is not None else None) for each in shared]


def _compare(first: str, second: str, errors: Mapping[str, Mapping[int, float]]) -> Comparison:
    ours, theirs = errors.get(first, {}), errors.get(second, {})
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    a, b = np.array([ours[seed] for seed in seeds]), np.array([theirs[seed] for seed in seeds])
    differences = a - b
    count = len(seeds)
    deviation = float(differences.std(ddof=1)) if count > 1 else None
    low = high = p = p_signs = None
    if deviation is not None and deviation > _SAME:
        tested = stats.ttest_rel(a, b)
        p = float(tested.pvalue)
        low, high = map(float, tested.confidence_interval(1 - LEVEL))
    if 1 < count <= _MOST_EXACT:
        # With as many resamples as there are signs scipy takes each once.
        flipped = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=2**count)
        p_signs = float(flipped.pvalue)
    mean = float(differences.mean()) if count else float("nan")
    return Comparison(
        first,
        second,
        seeds,
        tuple(map(float, differences)),
        mean,
        deviation,
        low,
        high,
        p,
        p_signs,
        2 / 2**count if count > 1 else None,
        None,
        "too few seeds" if count < 2 else "not told apart",
    )


def _judged(comparison: Comparison, corrected: float | None) -> Comparison:
    verdict = comparison.verdict
    if corrected is not None and corrected < LEVEL:
        verdict = "lower" if comparison.mean < 0 else "higher"
    return replace(comparison, p_holm=corrected, verdict=verdict)


def holm(values: Sequence[float]) -> list[float]:
    """The p values corrected for their number, step-down (Holm 1979); valid however the tests depend on each other."""
    order = np.argsort(values, kind="stable")
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = highest
    return corrected


def words_on(count: int, comparisons: int) -> list[str]:
    """What paired tests on `count` seeds can say, and what they cannot; sentences for a page."""
    if count < 2:
        return ["With one seed there is no spread, and nothing to test: whatever differs may be chance."]
    factor = float(stats.t.ppf(1 - LEVEL / 2, count - 1)) / count**0.5
    words = [
        f"Runs are paired by seed. With {count} seeds the paired t test has {count - 1} degree"
        f"{'s' if count > 2 else ''} of freedom: a mean difference must be {factor:.2f} times the standard deviation "
        f"of the differences to be significant at {LEVEL:g}, before any correction.",
        "The t test takes the differences for normally distributed, which so few cannot show. The sign-flip test "
        f"assumes less, and with {count} seeds cannot give a p below {2 / 2**count:.2g}.",
        "Seeds vary the first weights, the order of the images and their augmentation; images and recipe are the same. "
        "So the tests speak of this recipe on these images, not of other data, longer training or other rates.",
        "Not told apart does not mean equal: the interval says which differences remain possible.",
    ]
    if comparisons > 1:
        words.insert(
            2,
            f"{comparisons} comparisons are made, so their p values are corrected together (Holm): the chance that any "
            f"of the verdicts is a false alarm stays below {LEVEL:g}.",
        )
    return words


def needed(error: float, curve: Sequence[tuple[float, float]]) -> tuple[float | None, str]:
    """The cost at which a family of networks comes down to `error`; `curve` are (cost, error) of its members.

    By straight lines over the logarithm of the cost, between neighbours on the way down. Without a value: "more", its
    largest member errs more; or "less", its smallest errs less already.
    """
    points = sorted(curve)
    if points[0][1] <= error:
        return None, "less"
    for (cost, above), (next_cost, below) in pairwise(points):
        if below <= error:
            share = (above - error) / (above - below)
            return float(cost * (next_cost / cost) ** share), "at"
    return None, "more"
