"""`densekit bench serve`: servers of the same answers, in turns."""

import json
from pathlib import Path

import pytest

from densekit.bench.serving import FILE, ServingSettings, _rows, measure, table
from densekit.errors import InvalidInput


@pytest.mark.marathon
@pytest.mark.slow
def test_each_server_is_measured_with_each_number_of_clients(tmp_path: Path) -> None:
    said: list[str] = []
    course = ServingSettings(model="densenet_bc_10_8", clients=(1, 3), seconds=0.5, rounds=2, out=tmp_path)
    report = measure(course, said.append)
    assert "all name the same classes" in said
    assert json.loads((tmp_path / FILE).read_text()) == report
    assert len({row["server"] for row in report["rows"]}) == 4
    assert [row["clients"] for row in report["rows"]] == [1] * 4 + [3] * 4
    for row in report["rows"]:
        assert row["failed"] == 0
        assert len(row["rounds"]) == 2
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert report["engine"][-1]["event"] == "ready"
    assert len(table(report).splitlines()) == 2 + len(report["rows"])


def test_a_course_has_a_round_at_least(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1 or more"):
        measure(ServingSettings(rounds=0, out=tmp_path), print)


def test_times_of_a_server_that_answers_nothing_are_undefined() -> None:
    course = ServingSettings(clients=(1,))
    (row,) = _rows({("densekit", 1): [(1.0, [], 5)]}, course)
    assert (row["p50_ms"], row["p99_ms"], row["requests"], row["failed"]) == (None, None, 0, 5)
    assert "| 0.0 | - | - | 5 |" in table({"rows": [row], "engine": [], "model": "", "seconds": 1, "rounds": 1})
