"""Statistics over seeds, against hand computation and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from densekit.study.statistics import compare, holm, needed, summarise, words_on

A = {0: 0.10, 1: 0.12, 2: 0.11}
B = {0: 0.14, 1: 0.13, 2: 0.15}


def test_mean_and_deviation_are_the_textbooks() -> None:
    found = summarise([0.1, 0.2, 0.6])
    assert found.mean == pytest.approx(0.3)
    assert found.deviation == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert summarise([0.1]).deviation is None
    with pytest.raises(ValueError, match="nothing"):
        summarise([])


def test_the_paired_test_agrees_with_a_computation_by_hand() -> None:
    """Differences -4, -1, -4 points: mean -3, deviation sqrt(3), t = -3 / (sqrt(3) / sqrt(3)) = -3, 2 degrees."""
    (found,) = compare({"a": A, "b": B}, [("a", "b")])
    assert found.mean == pytest.approx(-0.03)
    assert found.deviation == pytest.approx(math.sqrt(3) / 100)
    # Student's t of 2 degrees has a closed form: P(T < t) = 1/2 + t / (2 sqrt(2 + t^2)).
    assert found.p == pytest.approx(2 * (0.5 - 3 / (2 * math.sqrt(11))))
    half = 4.302652729911275 / 100  # t(0.975, 2) times a standard error of one point
    assert (found.low, found.high) == pytest.approx((-0.03 - half, -0.03 + half))
    assert found.p_signs == pytest.approx(0.25)  # all three have one sign: 2 of 8
    assert found.verdict == "not told apart"


def test_seeds_are_paired_whatever_order_they_come_in() -> None:
    shuffled = {seed: B[seed] for seed in (2, 0, 1)}
    assert compare({"a": A, "b": shuffled}, [("a", "b")]) == compare({"a": A, "b": B}, [("a", "b")])


def test_only_seeds_that_both_have_count() -> None:
    (found,) = compare({"a": A | {3: 0.9}, "b": {1: 0.13, 2: 0.15}}, [("a", "b")])
    assert found.seeds == (1, 2)
    assert found.mean == pytest.approx(-0.025)


def test_many_seeds_agree_with_scipy() -> None:
    random = np.random.default_rng(0)
    a = random.normal(0.10, 0.01, 10)
    b = a + random.normal(0.02, 0.005, 10)
    (found,) = compare({"a": dict(enumerate(a)), "b": dict(enumerate(b))}, [("a", "b")])
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    # Every way to flip ten signs, counted.
    d = a - b
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    assert found.p_signs == pytest.approx(np.mean(np.abs(signs.T @ d) >= abs(d.sum()) - 1e-12))
    assert found.verdict == "lower"


def test_differences_that_do_not_vary_are_not_tested() -> None:
    """0.1 - 0.2 and 0.2 - 0.3 differ by rounding alone, which a t test would take for certainty."""
    (found,) = compare({"a": {0: 0.1, 1: 0.2, 2: 0.3}, "b": {0: 0.2, 1: 0.3, 2: 0.4}}, [("a", "b")])
    assert found.p is found.low is found.p_holm is None
    assert found.verdict == "not told apart"


def test_one_seed_tells_nothing() -> None:
    (found,) = compare({"a": {0: 0.1}, "b": {0: 0.2}}, [("a", "b")])
    assert (found.verdict, found.p, found.p_signs, found.deviation) == ("too few seeds", None, None, None)


def test_pairs_without_a_common_seed_are_left_out() -> None:
    assert compare({"a": {0: 0.1}, "b": {1: 0.1}}, [("a", "b"), ("a", "c")]) == []


def test_holm_corrects_step_by_step() -> None:
    """Holm 1979 by hand: 0.01 x 4, 0.02 x 3, 0.03 x 2 made no smaller than the one before, 0.5 x 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_verdicts_are_by_the_corrected_value() -> None:
    """One p of 0.04 is significant alone, and not beside nineteen others."""
    a = {0: 0.10, 1: 0.11, 2: 0.12, 3: 0.13}
    b = {0: 0.115, 1: 0.12, 2: 0.13, 3: 0.165}
    near = {seed: value + (0.001 if seed % 2 else -0.001) for seed, value in a.items()}
    (alone,) = compare({"a": a, "b": b}, [("b", "a")])
    assert alone.p is not None
    level_alone = alone.verdict
    several = compare(
        {"a": a, "b": b, **{f"n{i}": near for i in range(19)}}, [("b", "a"), *((f"n{i}", "a") for i in range(19))]
    )
    assert several[0].p == alone.p
    assert several[0].p_holm == pytest.approx(min(1.0, 20 * alone.p))
    assert (level_alone == "higher") == (alone.p < 0.05)
    assert several[0].verdict == "not told apart"


def test_what_three_seeds_can_say_is_said() -> None:
    words = " ".join(words_on(3, 6))
    assert "2.48 times" in words  # t(0.975, 2) / sqrt(3)
    assert "below 0.25" in words
    assert "6 comparisons" in words
    assert "nothing to test" in " ".join(words_on(1, 1))


def test_needed_parameters_are_between_neighbours() -> None:
    curve = [(400.0, 0.05), (100.0, 0.10)]
    halfway, end = needed(0.075, curve), needed(0.05, curve)
    assert (halfway[1], end[1]) == ("at", "at")
    assert halfway[0] == pytest.approx(200.0)  # over the logarithm
    assert end[0] == pytest.approx(400.0)
    assert needed(0.04, curve) == (None, "more")
    assert needed(0.2, curve) == (None, "less")
