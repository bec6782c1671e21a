"""Resuming notices what has changed since, names it, and goes on only where it is still the same run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import densekit
from densekit.errors import InvalidInput, ProofFailed
from tests.conftest import write_photos
from tests.faults.command import state_of

SMALL = {"data.limit": 120, "batch_size": 30}


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run of one epoch; `resume` with `epochs` goes on."""
    return densekit.train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=SMALL).folder


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def edit(path: Path, **changes: object) -> None:
    tree = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        node = tree
        *above, last = key.split("__")
        for part in above:
            node = node[part]
        node[last] = value
    path.write_text(yaml.safe_dump(tree) if path.suffix == ".yaml" else json.dumps(tree))


def test_a_finished_run_says_so(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state_of(stopped)
    run = densekit.resume(stopped)
    assert f"densekit resume {stopped} --epochs" in capsys.readouterr().err
    assert run.result.top1 == json.loads((stopped / "result.json").read_text())["top1"]
    assert state_of(stopped) == before


def test_a_longer_run_has_the_epochs_of_the_shorter_one(stopped: Path) -> None:
    densekit.resume(stopped, epochs=3)
    assert [row["epoch"] for row in lines_of(stopped / "metrics.jsonl")] == [1, 2, 3]
    with pytest.raises(InvalidInput, match="cannot shrink"):
        densekit.resume(stopped, epochs=2)


def test_a_changed_recipe_is_named_and_refused(stopped: Path) -> None:
    edit(stopped / "config.yaml", optimizer__lr=0.01)
    with pytest.raises(ProofFailed, match=r"optimizer\.lr: 0\.2 -> 0\.01.*--accept-changes"):
        densekit.resume(stopped, epochs=2)
    assert densekit.resume(stopped, epochs=2, accept_changes=True).result.count > 0
    changes = [event.get("changes") for event in lines_of(stopped / "events.jsonl")]
    assert ["optimizer.lr: 0.2 -> 0.01"] in changes


def test_changed_images_are_named_and_refused(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    settings = {"data.image_size": 16, "batch_size": 8}
    run = densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    densekit.resume(run.folder, epochs=2)
    for path in sorted((photos / "cat").iterdir())[:6]:
        path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ProofFailed, match="images"):
        densekit.resume(run.folder, epochs=3)


def test_so_is_an_image_that_is_as_long_as_before(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    settings = {"data.image_size": 16, "batch_size": 8}
    run = densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    path = photos / "cat" / "0.png"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(ProofFailed, match="images"):
        densekit.resume(run.folder, epochs=2)


def test_another_number_of_threads_is_named_and_gone_on_with(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OMP_NUM_THREADS of another machine would have it."""
    path = stopped / "checkpoints" / "last" / "state.json"
    before = json.loads(path.read_text())["made_by"]["environment"]["threads"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        densekit.resume(stopped, epochs=2)
    finally:
        torch.set_num_threads(threads)
    assert f"threads: {before} -> {before + 1}" in capsys.readouterr().err
