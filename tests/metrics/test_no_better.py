"""A result that says nothing is named, whatever the number looks like."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier

from densekit.metrics.multi_label import MultiLabelResult
from densekit.metrics.single_label import Result
from densekit.metrics.task import no_better
from tests.conftest import Command, write_photos

FACTS: dict[str, Any] = {
    "model": "m",
    "data": "d",
    "split": "test",
    "loss": 1.0,
    "ece": 0.0,
    "reliability": [],
    "seconds": 0.0,
}


@given(targets=st.lists(st.integers(0, 3), min_size=1, max_size=50), right=st.integers(0, 50))
def test_the_commonest_class_is_scikit_learns_most_frequent(targets: list[int], right: int) -> None:
    count = len(targets)
    top1 = min(right, count) / count
    rows = [{"class": str(c), "count": targets.count(c)} for c in range(4)]
    result = Result(**FACTS, count=count, top1=top1, top5=1.0, per_class=rows, confusion=[])
    baseline = DummyClassifier(strategy="most_frequent").fit([[0]] * count, targets).score([[0]] * count, targets)
    assert (no_better(result) is None) is (top1 > baseline or len(set(targets)) == 1)


@pytest.mark.parametrize(("auroc", "named"), [(0.5, True), (0.4, True), (0.51, False), (None, False)])
def test_an_area_of_a_half_is_chance(auroc: float | None, named: bool) -> None:
    result = MultiLabelResult(**FACTS, count=10, auroc=auroc, ap=None, per_class=[])
    assert (no_better(result) is not None) is named


def test_two_classes_that_are_told_apart_by_a_threshold_are_not_called_useless() -> None:
    """Nine negatives in ten: no image has the rare class as its most probable one, and its images come first."""
    rows = [{"class": "healthy", "count": 90}, {"class": "ill", "count": 10}]
    result = Result(**FACTS, count=100, top1=0.9, top5=1.0, per_class=rows, confusion=[], positive="ill", auroc=0.97)
    words = no_better(result)
    assert words is not None
    assert "no better than always answering healthy" in words
    assert "AUROC 0.97" in words
    assert "nothing of use" not in words


def test_a_run_that_learned_nothing_says_so_in_its_last_lines_in_its_result_and_in_the_report(
    densekit: Command, tmp_path: Path
) -> None:
    """Its weights decay to nothing, and all images get one answer."""
    write_photos(tmp_path / "photos", classes=("cat", "dog", "emu"), size=16, count=20)
    words = ["--model", "densenet_bc_10_4", "--epochs", "3", "--out", "run"]
    for setting in ("optimizer.weight_decay=8", "optimizer.lr=0.1", "batch_size=8", "ema.decay=0", "plan=concat"):
        words += ["--set", setting]
    status, out, _ = densekit("train", "photos", *words)
    assert status == 0
    *_, said, report = out.splitlines()
    assert "is no better than always answering" in said
    assert report == "report: run/report.html"
    assert json.loads((tmp_path / "run" / "result.json").read_text())["no_better"] in said
    assert "is no better than always answering" in (tmp_path / "run" / "report.html").read_text()
    status, out, _ = densekit("evaluate", "run", "--json")
    assert json.loads(out)["no_better"] in said
    status, out, _ = densekit("resume", "run")
    assert status == 0, "the result is read again"
