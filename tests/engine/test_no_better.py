"""A result that says nothing is named, whatever the number looks like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier

from densekit.engine.multi_label import MultiLabelResult
from densekit.engine.single_label import Result
from densekit.engine.task import no_better

FACTS = {"model": "m", "data": "d", "split": "test", "loss": 1.0, "ece": 0.0, "reliability": [], "seconds": 0.0}


@given(targets=st.lists(st.integers(0, 3), min_size=1, max_size=50), right=st.integers(0, 50))
def test_the_commonest_class_is_scikit_learns_most_frequent(targets: list[int], right: int) -> None:
    count = len(targets)
    top1 = min(right, count) / count
    rows = [{"class": str(c), "count": targets.count(c)} for c in range(4)]
    result = Result(**FACTS, count=count, top1=top1, top5=1.0, per_class=rows, confusion=[])
    baseline = DummyClassifier(strategy="most_frequent").fit([[0]] * count, targets).score([[0]] * count, targets)
    assert (no_better(result) is None) is (top1 > baseline)


@pytest.mark.parametrize(("auroc", "named"), [(0.5, True), (0.4, True), (0.51, False), (None, False)])
def test_an_area_of_a_half_is_chance(auroc: float | None, named: bool) -> None:
    result = MultiLabelResult(**FACTS, count=10, auroc=auroc, ap=None, per_class=[])
    assert (no_better(result) is not None) is named
