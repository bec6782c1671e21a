"""The learning-rate range test: where the loss falls and rises from the run's own start; nothing is left behind."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from densekit import find_lr, train
from densekit.cli.lr import lines
from densekit.errors import BadData, InvalidInput
from densekit.folders import cache_folder
from densekit.training.lr_range_test import RISE, RateCurve
from tests.conftest import Command
from tests.faults.command import run

SETTINGS = {"data.limit": 600, "batch_size": 30, "plan": "concat"}
WORDS: dict[str, Any] = {"model": "densenet_bc_16_8", "settings": SETTINGS}


@pytest.fixture(scope="module")
def curve() -> RateCurve:
    return find_lr("digits", steps=100, **WORDS)


def test_rates_rise_exponentially_and_the_loss_falls_then_rises(curve: RateCurve) -> None:
    ratios = np.divide(curve.rates[1:], curve.rates[:-1])
    assert ratios == pytest.approx(np.full(len(ratios), (10 / 1e-5) ** (1 / 99)))
    assert len(curve.rates) == len(curve.losses) == len(curve.smoothed)
    assert min(curve.smoothed) < 0.75 * curve.smoothed[0]
    rose = np.array(curve.smoothed) > RISE * min(curve.smoothed)
    assert curve.ended == ("loss rose" if rose[-1] else "highest rate")
    assert len(curve.rates) == 100 or curve.ended == "loss rose"


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss(curve: RateCurve) -> None:
    assert curve.lowest == curve.rates[int(np.argmin(curve.smoothed))]
    assert curve.suggestion == pytest.approx(curve.lowest / 10, rel=0.05)
    assert curve.steepest is not None
    assert curve.steepest < curve.lowest


def test_the_first_loss_is_that_of_the_runs_own_start(curve: RateCurve, tmp_path: Path) -> None:
    """At a rate that changes next to nothing, the first epoch's mean loss is that of these steps."""
    still = find_lr("digits", steps=20, min_lr=1e-12, max_lr=1e-11, **WORDS)
    first = train("digits", out=tmp_path / "run", epochs=1, **WORDS | {"settings": SETTINGS | {"optimizer.lr": 1e-12}})
    row = json.loads((first.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert np.mean(still.losses) == pytest.approx(row["train_loss"], rel=1e-5)
    assert still.losses[0] == pytest.approx(curve.losses[0], rel=1e-6)


@pytest.mark.slow
def test_the_suggestion_trains_well(curve: RateCurve, tmp_path: Path) -> None:
    """Better than a hundredth of it, and than the rate at which the test ended."""
    scores = []
    for i, rate in enumerate((curve.suggestion, curve.lowest / 1000, curve.rates[-1])):
        settings = SETTINGS | {"optimizer.lr": rate, "ema.decay": 0}
        found = train("digits", out=tmp_path / str(i), epochs=3, **WORDS | {"settings": settings})
        scores.append(found.result.top1 or 0.0)
    assert scores[0] > 0.5
    assert scores[0] > max(scores[1:]) + 0.2


def test_the_seed_decides_it_and_nothing_of_the_machine_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    one, same, other = (find_lr("digits", seed=seed, steps=20, **WORDS) for seed in (0, 0, 1))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert cache_folder().parent == tmp_path / "cache"
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_a_table_in_80_columns_and_writes_a_figure(densekit: Command, tmp_path: Path) -> None:
    words = ("lr", "digits", "--model", "densenet_bc_10_4", "--steps", "40", "--set", "data.limit=300")
    status, out, _ = densekit(*words, "--out", tmp_path / "lr.svg")
    assert status == 0
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert "suggestion: --set optimizer.lr=" in out
    assert ElementTree.parse(tmp_path / "lr.svg").getroot().tag.endswith("svg")
    status, out, _ = densekit(*words, "--out", tmp_path / "lr.png", "--json")
    assert status == 0
    assert set(json.loads(out)) == set(RateCurve.__dataclass_fields__)
    with Image.open(tmp_path / "lr.png") as figure:
        assert figure.width > 600


def test_without_a_fall_there_is_no_suggestion() -> None:
    flat = find_lr("digits", steps=20, min_lr=1e-12, max_lr=1e-11, **WORDS)
    assert flat.suggestion is None
    assert any("no suggestion" in line for line in lines(flat))
    json.dumps(asdict(flat), allow_nan=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_lr": 1.0, "max_lr": 0.1}, "no range of learning rates"),
        ({"max_lr": float("inf")}, "no range of learning rates"),
        ({"steps": 5}, "steps=5 are too few"),
        ({"out": "lr.pdf"}, "neither .svg nor .png"),
        ({"out": "nowhere/lr.svg"}, "there is no folder nowhere"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        find_lr("digits", **WORDS, **given)


def test_a_loss_that_is_not_finite_at_once_is_an_error() -> None:
    with pytest.raises(BadData, match="start at a lower one"):
        find_lr("digits", min_lr=1e18, max_lr=1e30, steps=40, **WORDS)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    words = ("lr", "synthetic:8x8x3:4:430", "--model", "densenet_bc_10_4", "--steps", "40", "--json")
    one, two = (json.loads(run(*words, folder=tmp_path, ranks=ranks)[0]) for ranks in (1, 2))
    assert two["losses"][:20] == pytest.approx(one["losses"][:20], rel=1e-3)
