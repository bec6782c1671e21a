"""A metric does not depend on how many processes took it: to the last sample, and to the last bit."""

import json
from pathlib import Path

import pytest

from densekit import Run
from tests.faults.command import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("split", "count"), [("val", 163), ("train", 1237)])
def test_one_two_and_three_processes_print_the_same(split: str, count: int, tiny_run: Path, tmp_path: Path) -> None:
    """Counts that none of them divides; of the smaller one the third process has nothing."""
    words = ("evaluate", tiny_run, "--split", split, "--set", f"data.limit={count}", "--json")
    answers = {run(*words, folder=tmp_path, ranks=n)[0] for n in (1, 2, 3)}
    assert len(answers) == 1
    answer = json.loads(answers.pop())
    assert answer["count"] == count
    assert sum(map(sum, answer["confusion"])) == count


def test_areas_under_curves_too(xray_run: Run, tmp_path: Path) -> None:
    words = ("evaluate", xray_run.folder, "--split", "train", "--json")
    answers = {run(*words, folder=tmp_path, ranks=n)[0] for n in (1, 2, 3)}
    assert len(answers) == 1
    assert json.loads(answers.pop())["auroc"] > 0.5
