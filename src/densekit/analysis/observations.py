"""The paper's four observations on figure 5 (Huang et al. 2017, sec. 5), each as a number with a rule for its verdict.

The rules are ours: the paper looks at a picture. All of them are about shares, so that a factor on all weights of a
reader changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from densekit.analysis.reuse import Map

Verdict = Literal["held", "did not hold", "unclear"]
_Column = NDArray[np.float64]


@dataclass(frozen=True)
class Claim:
    """One of the four: what the paper says, what is measured, and when that is a yes or a no."""

    key: str
    says: str
    """The paper's observation, in our words."""
    number: str
    """What the number is."""
    rule: str
    """When it held, and when it did not."""
    measure: Callable[[Sequence[Map]], float]
    held_from: float
    fails_from: float
    """Verdicts beyond these; unclear between them."""

    def verdict(self, value: float) -> Verdict:
        """Of one network; unclear too where there is nothing to measure."""
        held = value >= self.held_from if self.held_from > self.fails_from else value <= self.held_from
        failed = value <= self.fails_from if self.held_from > self.fails_from else value >= self.fails_from
        return "held" if held else "did not hold" if failed else "unclear"


@dataclass(frozen=True)
class Observation:
    """A claim, measured on one or several networks."""

    key: str
    says: str
    number: str
    rule: str
    values: list[float]
    """Of each network, in the order given."""
    mean: float
    deviation: float | None
    """Standard deviation over the networks (n - 1); none of a single one."""
    verdicts: list[Verdict]
    verdict: Verdict
    """What all say; unclear where they differ."""
    untrained: float | None
    """The same number of the control, which has learned nothing; none where it was not measured."""


def observe(networks: Sequence[Sequence[Map]], control: Sequence[Map] | None) -> list[Observation]:
    """`networks` are maps by block of each network, `control` those of an untrained one."""
    return [_observation(claim, networks, control) for claim in CLAIMS]


def _observation(claim: Claim, networks: Sequence[Sequence[Map]], control: Sequence[Map] | None) -> Observation:
    values = [claim.measure(maps) for maps in networks]
    verdicts = [claim.verdict(value) for value in values]
    return Observation(
        claim.key,
        claim.says,
        claim.number,
        claim.rule,
        values,
        float(np.mean(values)),
        float(np.std(values, ddof=1)) if len(values) > 1 else None,
        verdicts,
        verdicts[0] if len(set(verdicts)) == 1 else "unclear",
        None if control is None else claim.measure(control),
    )


def early_use(maps: Sequence[Map]) -> float:
    """Weight that the deeper half of a block's layers gives to the first third of its sources, over its average.

    1: no less than to others; mean over layers and blocks. Sources are those that the layer can read.
    """
    ratios = []
    for m in maps:
        layers = m.shape[1] - 1
        for r in range(layers // 2, layers):
            column = _read(m, r)
            if len(column) >= 3:
                ratios.append(_ratio(column[: len(column) // 3].mean(), column.mean()))
    return _mean(ratios)


def transition_spread(maps: Sequence[Map]) -> float:
    """Effective number of sources of a transition over their number: exp(entropy of its shares) / (L + 1).

    1: all alike; 1 / (L + 1): one source alone. Mean over transitions.
    """
    return _mean([_evenness(_read(m, m.shape[1] - 1)) for m in maps[:-1]])


def least_to_entering(maps: Sequence[Map]) -> float:
    """Share of the layers of all blocks but the first that give least weight of all to what enters the block.

    Of layers with two sources or more.
    """
    firsts = [
        bool(np.argmin(_read(m, r)) == 0) for m in maps[1:] for r in range(m.shape[1] - 1) if len(_read(m, r)) > 1
    ]
    return _mean(firsts)


def late_in_classifier(maps: Sequence[Map]) -> float:
    """Weight of the classifier on the last third of its sources over that on the first third."""
    column = _read(maps[-1], maps[-1].shape[1] - 1)
    third = len(column) // 3
    return _ratio(column[-third:].mean(), column[:third].mean()) if third else float("nan")


def _read(m: Map, reader: int) -> _Column:
    column = m[:, reader]
    return column[~np.isnan(column)]


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else float("nan")  # an ablation may find that nothing is missed


def _evenness(column: _Column) -> float:
    shares = np.clip(column, 0, None)
    shares = shares[shares > 0] / shares.sum() if shares.sum() else shares[:0]
    return float(np.exp(-(shares * np.log(shares)).sum()) / len(column)) if len(shares) else float("nan")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


CLAIMS = (
    Claim(
        "early_use",
        "Features of early layers are used directly by deep layers of the same block.",
        "weight of the deeper half of layers on the first third of their sources, over the average of all they read",
        "held from 0.75 on: early features get nearly the share of any other; did not hold up to 0.5",
        early_use,
        0.75,
        0.5,
    ),
    Claim(
        "transition_spread",
        "Transitions spread their weight over all layers of the block before them.",
        "effective number of sources of a transition, as a share of all",
        "held from 0.9 on; did not hold up to 0.7. One source in ten unread costs 0.1",
        transition_spread,
        0.9,
        0.7,
    ),
    Claim(
        "least_to_transition",
        "In the later blocks, layers give least weight to what the transition before the block hands on.",
        "share of the layers of later blocks that give what enters the block the least weight of all they read",
        "held from one half on: most layers; did not hold up to a quarter",
        least_to_entering,
        0.5,
        0.25,
    ),
    Claim(
        "late_in_classifier",
        "The classifier reads the whole last block, but concentrates on its late maps.",
        "weight of the classifier on the last third of its sources, over that on the first third",
        "held from 1.1 on: a tenth more; did not hold up to 1",
        late_in_classifier,
        1.1,
        1.0,
    ),
)


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's: of ranks, equals sharing theirs. Not a number where one of them is constant."""
    ranks = np.array([_ranks(a.ravel()), _ranks(b.ravel())])
    centred = ranks - ranks.mean(1, keepdims=True)
    scale = np.sqrt((centred**2).sum(1)).prod()
    return float(centred[0] @ centred[1] / scale) if scale > 0 else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values))
    edges = [0, *(np.flatnonzero(np.diff(values[order])) + 1).tolist(), len(values)]
    for start, stop in pairwise(edges):
        ranks[order[start:stop]] = (start + stop - 1) / 2
    return ranks
