"""Thresholds chosen on validation images, against scikit-learn's metrics at every threshold there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from densekit.config import Recipe, with_settings
from densekit.errors import InvalidInput
from densekit.metrics.thresholds import choose
from densekit.recipes import recipe_for

SCORES = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=40).filter(
    lambda rows: len({target for target, _ in rows}) == 2
)


def columns(rows: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    target, score = zip(*rows, strict=True)
    return np.array(target), np.array(score) / 12


def youden(target: np.ndarray, taken: np.ndarray) -> float:
    return float(taken[target].mean() - taken[~target].mean())


def f1(target: np.ndarray, taken: np.ndarray) -> float:
    return float(2 * (target & taken).sum() / (target.sum() + taken.sum()))


def candidates(score: np.ndarray) -> list[float]:
    return np.unique(score).tolist()


@settings(max_examples=50)
@given(SCORES)
def test_youden_has_the_highest_sum_of_sensitivity_and_specificity(rows: list[tuple[bool, int]]) -> None:
    target, score = columns(rows)
    best = max(youden(target, score >= each) for each in candidates(score))
    assert youden(target, score >= choose("youden", target, score)) == pytest.approx(best)


@settings(max_examples=50)
@given(SCORES)
def test_f1_is_the_highest_there_is(rows: list[tuple[bool, int]]) -> None:
    target, score = columns(rows)
    best = max(f1(target, score >= each) for each in candidates(score))
    assert f1(target, score >= choose("f1", target, score)) == pytest.approx(best)


@settings(max_examples=50)
@given(SCORES, st.floats(0.01, 1.0))
def test_a_wanted_sensitivity_has_the_highest_threshold(rows: list[tuple[bool, int]], wanted: float) -> None:
    target, score = columns(rows)
    found = choose(f"sensitivity:{wanted}", target, score)
    assert (score >= found)[target].mean() >= wanted - 1e-9
    for higher in candidates(score):
        if higher > score[score >= found].min():
            assert (score >= higher)[target].mean() < wanted


@pytest.mark.parametrize("rule", ["youden", "f1", "sensitivity:0.9"])
def test_without_positives_or_negatives_it_is_one_half(rule: str) -> None:
    for target in (np.ones(4, bool), np.zeros(4, bool)):
        assert choose(rule, target, np.linspace(0, 0.4, 4)) == 0.5


@pytest.mark.parametrize("rule", ["youden", "f1", "sensitivity:0.95", "sensitivity:1"])
def test_a_rule_is_a_setting(rule: str) -> None:
    assert with_settings(recipe_for("quick", "digits"), {"threshold": rule}).threshold == rule


@pytest.mark.parametrize("rule", ["j", "sensitivity", "sensitivity:0", "sensitivity:1.1", "sensitivity:x", "f1:0.5"])
def test_another_rule_is_refused_with_those_there_are(rule: str) -> None:
    with pytest.raises(InvalidInput, match=r"youden, f1, or sensitivity:S"):
        with_settings(recipe_for("quick", "digits"), {"threshold": rule})


def test_a_recipe_of_an_older_version_has_none() -> None:
    tree = recipe_for("quick", "digits").model_dump()
    del tree["threshold"], tree["data"]["binary"], tree["data"]["positive"]
    old = Recipe.model_validate(tree)
    assert (old.threshold, old.data.binary, old.data.positive) == (None, None, None)
    with pytest.raises(ValidationError):
        Recipe.model_validate(tree | {"threshold": "none"})
