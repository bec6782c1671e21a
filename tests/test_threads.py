"""Small networks train on one thread; the caller's number comes back."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import densekit
from densekit import threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("macs", "expected"), [(1_000_000, 1), (50_000_000, 2)])
def test_threads_follow_the_work(macs: int, expected: int) -> None:
    with threads.suitable(macs, 64):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 2


def test_the_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads.suitable(1, 1):
        assert torch.get_num_threads() == 2


def test_they_come_back_after_a_failure() -> None:
    with pytest.raises(KeyError), threads.suitable(1, 1):
        raise KeyError
    assert torch.get_num_threads() == 2


def test_a_run_records_what_it_used(tmp_path: Path) -> None:
    run = densekit.train("digits", epochs=1, out=tmp_path / "run", settings={"data.limit": 64})
    assert json.loads((run.folder / "env.json").read_text())["threads"] == 1
    assert torch.get_num_threads() == 2
