"""Resuming notices what has changed since, names it, and goes on only where it is still the same run."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import densekit
from densekit.config import with_settings
from densekit.errors import InvalidInput, ProofFailed
from densekit.runs import run_folder
from densekit.training import resume_check
from densekit.training.checkpoint import read_checkpoint, restore_checkpoint
from densekit.training.setup import TrainContext, prepare
from densekit.training.trainer import start
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


@pytest.mark.parametrize(
    ("settings", "division"),
    [
        ({}, ()),
        ({"accumulate": 2, "augment.mixup": 0.2}, ("accumulate: 2", "augment.mixup: 0.2")),
        ({"sync_batch_norm": False, "model.dropout_rate": 0.1}, ("sync_batch_norm: False", "model.dropout_rate: 0.1")),
    ],
)
def test_another_number_of_processes_is_called_what_it_is(
    settings: dict[str, Any],
    division: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other rounding; another training where each process has its own statistics or draws."""
    settings = SMALL | {"plan": "concat"} | settings
    run = densekit.train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings).folder
    made_by = resume_check.fingerprint_of

    def by_two(prepared: TrainContext) -> dict[str, Any]:
        now = made_by(prepared)
        return now | {"environment": now["environment"] | {"processes": 2}}

    monkeypatch.setattr(resume_check, "fingerprint_of", by_two)
    densekit.resume(run, epochs=2)
    said = capsys.readouterr().err
    assert "processes: 1 -> 2" in said
    assert ("another training" in said) == bool(division)
    assert all(setting in said for setting in division)


def test_what_decides_no_number_may_be_set_anew(stopped: Path) -> None:
    densekit.resume(stopped, epochs=2, settings={"data.max_bad": 3, "checkpoint.every_steps": 2})
    recorded = yaml.safe_load((stopped / "config.yaml").read_text())
    assert (recorded["epochs"], recorded["data"]["max_bad"], recorded["checkpoint"]["every_steps"]) == (2, 3, 2)
    with pytest.raises(ProofFailed, match="batch_size: 30 -> 20"):
        densekit.resume(stopped, epochs=3, settings={"batch_size": 20})


@pytest.mark.parametrize("change", [{"optimizer.no_decay": ["*.bias"]}, {"optimizer.name": "adamw"}])
def test_momenta_stay_with_their_parameters_when_the_optimizer_changes(change: dict[str, Any], stopped: Path) -> None:
    before = load_file(stopped / "checkpoints/last/state.safetensors")
    recipe = with_settings(run_folder.recipe_of(stopped), change)
    prepared = prepare(recipe, stopped)
    state = start(prepared)
    restore_checkpoint(read_checkpoint(stopped / "checkpoints" / "last"), state, stopped)
    for name, parameter in state.model.named_parameters():
        momentum = state.optimizer.state[parameter].get("momentum_buffer")
        if "optimizer.name" in change:  # AdamW has no use for SGD's
            assert momentum is None
        else:
            assert momentum is not None
            assert torch.equal(momentum, before[f"optimizer.{name}.momentum_buffer"])
    assert densekit.resume(stopped, epochs=2, settings=change, accept_changes=True).result.count > 0


def test_a_setting_that_an_older_version_did_not_have_is_no_change(stopped: Path) -> None:
    made_by = read_checkpoint(stopped / "checkpoints" / "last").document["made_by"]
    older = copy.deepcopy(made_by)
    del older["recipe"]["class_weights"]
    assert not any(getattr(resume_check.changes(older, made_by), kind) for kind in ("recipe", "data", "execution"))


def test_a_run_without_a_checkpoint_remembers_how_long_it_is_to_be(stopped: Path) -> None:
    shutil.rmtree(stopped / "checkpoints" / "last")
    densekit.resume(stopped, epochs=2)
    assert run_folder.recipe_of(stopped).epochs == 2
    assert len(lines_of(stopped / "metrics.jsonl")) == 2


def photo_run(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of photos and a run on it, of one epoch."""
    photos = write_photos(tmp_path / "photos")
    settings = {"data.image_size": 16, "batch_size": 8}
    run = densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    return photos, run.folder


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("change", ["new", "renamed"])
def test_other_classes_are_another_network_and_permission_is_not_advised(
    change: str, accept: bool, tmp_path: Path
) -> None:
    photos, run = photo_run(tmp_path)
    if change == "new":
        shutil.copytree(photos / "cat", photos / "fox")
    else:
        (photos / "cat").rename(photos / "ape")
    advice = rf"classes have changed.*densekit train {photos} --init {run}"
    with pytest.raises(ProofFailed, match=advice) as refused:
        densekit.resume(run, epochs=2, accept_changes=accept)
    assert "--accept-changes" not in str(refused.value)
    again = {"data.image_size": 16, "batch_size": 8}
    begun = densekit.train(photos, model="densenet_bc_10_4", epochs=1, init=run, out=tmp_path / "new", settings=again)
    assert begun.result.count > 0


@pytest.mark.parametrize("settings", [{"data.channels": 1}, {"model.growth_rate": 8}])
def test_so_is_a_network_of_other_shapes(settings: dict[str, Any], tmp_path: Path) -> None:
    _, run = photo_run(tmp_path)
    with pytest.raises(ProofFailed, match=r"network has changed \(features.*--init") as refused:
        densekit.resume(run, epochs=2, settings=settings)
    assert "--accept-changes" not in str(refused.value)
