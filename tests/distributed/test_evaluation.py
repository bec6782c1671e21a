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


def test_the_leader_writes_the_rows_of_all(tiny_run: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        run("evaluate", tiny_run, "--out", f"out-{ranks}", folder=tmp_path, ranks=ranks)
    for name in ("predictions.csv", "metrics.json"):
        one, two = ((tmp_path / f"out-{ranks}" / name).read_bytes() for ranks in (1, 2))
        assert one == two
    (tmp_path / "out-2" / "notes.txt").write_text("mine")
    _, err = run("evaluate", tiny_run, "--out", "out-2", folder=tmp_path, ranks=2, status=1)
    assert "holds other files" in err
