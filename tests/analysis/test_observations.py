"""The four observations: maps of which anybody can say whether they hold."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from densekit.analysis import observations, stochastic


def maps(entry: Callable[[int, int, int], float], layers: int = 9, blocks: int = 3) -> list[NDArray[np.float64]]:
    """Maps by a function of block, source and reader."""
    found = [np.full((layers + 1, layers + 1), np.nan) for _ in range(blocks)]
    for b, m in enumerate(found):
        for r in range(layers + 1):
            for s in range(r + 1):
                m[s, r] = entry(b, s, r)
    return found


def seen(*networks: list[NDArray[np.float64]]) -> dict[str, observations.Observation]:
    return {found.key: found for found in observations.observe(networks, maps(lambda b, s, r: 1.0))}


def test_a_network_as_the_paper_describes_it_holds_all_four() -> None:
    last = 9
    found = seen(maps(lambda b, s, r: 1 + 0.1 * s * (b == 2 and r == last) - 0.5 * (s == 0 < b and r < last)))
    assert {key: each.verdict for key, each in found.items()} == {
        "early_use": "held",
        "transition_spread": "held",
        "least_to_transition": "held",
        "late_in_classifier": "held",
    }
    assert found["least_to_transition"].mean == 1


def test_the_opposite_holds_none() -> None:
    found = seen(maps(lambda b, s, r: 0.01 + (s == r) * 5 if r < 9 else 1.0 / (1 + 9 * s)))
    assert found["early_use"].verdict == "did not hold"
    assert found["transition_spread"].verdict == "did not hold"
    assert found["late_in_classifier"].verdict == "did not hold"
    found = seen(maps(lambda b, s, r: 1.0 + (s == 0)))
    assert found["least_to_transition"].verdict == "did not hold"


def test_networks_that_differ_are_unclear_and_have_a_spread() -> None:
    rising, falling = maps(lambda b, s, r: 1 + 0.1 * s), maps(lambda b, s, r: 2 - 0.1 * s)
    found = seen(rising, falling)["late_in_classifier"]
    assert found.verdicts == ["held", "did not hold"]
    assert found.verdict == "unclear"
    assert found.deviation == pytest.approx(np.std(found.values, ddof=1))
    assert seen(rising)["late_in_classifier"].deviation is None


def test_a_factor_on_a_reader_changes_nothing() -> None:
    plain = maps(lambda b, s, r: 1 + 0.1 * s)
    scaled = maps(lambda b, s, r: (1 + 0.1 * s) * (r + 1) * 10**b)
    means = {key: each.mean for key, each in seen(plain).items()}
    assert len(means) == 4
    assert {key: each.mean for key, each in seen(scaled).items()} == pytest.approx(means)


def test_what_cannot_be_measured_is_unclear() -> None:
    found = seen(maps(lambda b, s, r: 1.0, layers=1, blocks=1))
    assert {each.verdict for each in found.values()} == {"unclear"}


def test_sources_that_nobody_misses_are_no_reason_to_warn() -> None:
    nothing = maps(lambda b, s, r: 0.0)
    assert np.isnan(observations.early_use(nothing))
    assert np.isnan(observations.late_in_classifier(nothing))
    assert np.isnan(observations.transition_spread(nothing))


def test_an_untrained_network_stands_beside_it() -> None:
    untrained = {key: each.untrained for key, each in seen(maps(lambda b, s, r: 1.0)).items()}
    keys = ("early_use", "transition_spread", "least_to_transition", "late_in_classifier")
    assert untrained == pytest.approx(dict.fromkeys(keys, 1.0))


def test_rank_correlation_is_spearmans() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(0, 6, (2, 30)).astype(float)
        assert observations.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(observations.rank_correlation(a, np.ones(30)))


def test_stochastic_depth_connects_as_the_formula_says() -> None:
    """Three blocks of two layers, survival 1 - l/12: p = 11/12, 10/12, ..., 6/12."""
    second = stochastic.connection_map((2, 2, 2), 1)
    assert second[0, 0] == second[1, 1] == second[2, 2] == 1  # nothing between
    assert second[0, 1] == pytest.approx(3 / 12)  # past layer 3
    assert second[1, 2] == pytest.approx(4 / 12)
    assert second[0, 2] == pytest.approx(3 / 12 * 4 / 12)
    assert np.isnan(second[1, 0])
    last = stochastic.connection_map((2, 2, 2), 2)
    assert last[1, 2] == pytest.approx(0.5)
