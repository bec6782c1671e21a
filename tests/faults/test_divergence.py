"""A loss that is not finite stops the run with what is needed to find out why, or goes back if asked to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import densekit
from densekit.api.training import compose
from densekit.engine import prepare, runs, train
from densekit.errors import BadData, Diverged
from tests.conftest import spoil, write_photos
from tests.faults.command import run, state_of, train_until

DIVERGING = {"data.limit": 200, "batch_size": 50, "optimizer.lr": 1e20, "schedule.name": "steps"}


def test_the_dump_names_the_images_and_the_layer(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"diverged\.json"):
        densekit.train("digits", model="densenet_bc_10_4", epochs=3, out=tmp_path / "run", settings=DIVERGING)
    dump = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert dump["loss"] in ("nan", "inf")
    split = (tmp_path / "run" / "split.csv").read_text().splitlines()
    assert len(dump["images"]) == 50
    assert all(any(line.startswith(f"train,{image},") for line in split) for image in dump["images"])
    layers = [layer["layer"] for layer in dump["layers"]]
    assert layers[0] == "features.conv0"
    assert layers[-1] == "classifier"
    # JSON, which has no NaN; and at least one layer shows it.
    assert any(not isinstance(layer["output"], float) for layer in dump["layers"])


def test_the_exit_status_is_4(tmp_path: Path) -> None:
    settings = [word for key, value in DIVERGING.items() for word in ("--set", f"{key}={value}")]
    _, err = run("train", "digits", "--model", "densenet_bc_10_4", *settings, folder=tmp_path, status=4)
    assert err.splitlines()[-1].startswith("densekit: the loss became")


def test_a_disk_that_is_full_by_then_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise BadData("no space left")

    monkeypatch.setattr(train, "write_dump", full)
    with pytest.raises(Diverged, match="learning rate") as error:
        densekit.train("digits", model="densenet_bc_10_4", epochs=3, out=tmp_path / "run", settings=DIVERGING)
    assert "diverged.json" not in str(error.value), "it names a file that is not there"


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_going_back_lowers_the_rate_until_it_holds(precision: str, tmp_path: Path) -> None:
    settings = DIVERGING | {"divergence.rollbacks": 1, "divergence.factor": 1e-21, "precision": precision}
    finished = densekit.train("digits", model="densenet_bc_10_4", epochs=2, out=tmp_path / "run", settings=settings)
    events = [json.loads(line) for line in (finished.folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "rollback", "finish"]
    assert all(row["train_loss"] < 10 for row in runs.metrics(finished.folder))


def test_a_gradient_that_is_no_number_changes_nothing(tmp_path: Path) -> None:
    """The loss may be finite all the same, as where a square root meets zero."""
    recipe = compose("digits", model="densenet_bc_10_4", settings={"data.limit": 64})
    prepared = prepare(recipe, tmp_path)
    state = train.start(prepared)
    before = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
    prepared.model.get_parameter("classifier.bias").register_hook(lambda gradient: gradient * float("nan"))
    batch = next(prepared.loader("train", recipe.augment).epoch(0))
    outcome = train.train_step(state, batch, prepared, 0.1, [len(batch.samples)])
    assert np.isfinite(outcome.loss)
    assert outcome.fault == "gradient became nan"
    for name, tensor in state.model.named_parameters():
        assert torch.equal(tensor, before[name]), name


def test_float16_stops_when_no_scale_makes_its_gradients_finite(tmp_path: Path) -> None:
    """The scaler would halve its scale down to 0, and train nothing."""
    recipe = compose("digits", model="densenet_bc_10_4", settings={"data.limit": 64, "precision": "float16"})
    prepared = prepare(recipe, tmp_path)
    state = train.start(prepared)
    prepared.model.get_parameter("classifier.bias").register_hook(lambda gradient: gradient * float("nan"))
    batch = next(prepared.loader("train", recipe.augment).epoch(0))
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0})
    faults = [train.train_step(state, batch, prepared, 0.1, [len(batch.samples)]).fault for _ in range(3)]
    # At 2 and 1 it may be an overflow, which is the scaler's business.
    assert faults == [None, None, "gradient became nan"]


@pytest.mark.slow
def test_torchrun_does_not_diverge_again_and_again(tmp_path: Path) -> None:
    settings = [word for key, value in DIVERGING.items() for word in ("--set", f"{key}={value}")]
    words = ("train", "digits", "--model", "densenet_bc_10_4", "--epochs", "3", "--out", "run", *settings)
    _, err = run(*words, folder=tmp_path, ranks=2, restarts=2, status=1)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "diverged"]
    assert "the loss became" in err


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_files_within_the_budget_are_the_same_on_every_process(ranks: int, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    for name in ("cat/0.png", "dog/3.png"):
        spoil(photos / name)
    arguments = (
        "train",
        "photos",
        "--model",
        "densenet_bc_10_4",
        "--epochs",
        "2",
        "--out",
        "run",
        "--image-size",
        "16",
    )
    arguments += ("--set", "batch_size=6")
    _, err = run(*arguments, folder=tmp_path, ranks=ranks, status=3 if ranks == 1 else 1)
    assert "data.max_bad" in err
    assert "dog/3.png" in (tmp_path / "run" / "skipped.csv").read_text() or "cat/0.png" in err
    shutil.rmtree(tmp_path / "run")
    _, err = run(*arguments[:-1], "batch_size=6", "--set", "data.max_bad=2", folder=tmp_path, ranks=ranks)
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert "cat/0.png" in skipped
    assert "dog/3.png" in skipped


def test_a_batch_without_a_single_readable_image_is_passed_over(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", count=8)
    for path in sorted((photos / "cat").iterdir())[:4]:
        spoil(path)
    settings = {"data.image_size": 16, "batch_size": 2, "data.max_bad": 4}
    finished = densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    assert finished.result.count > 0
    with pytest.raises(BadData, match="cat"):
        densekit.train(
            str(photos),
            model="densenet_bc_10_4",
            epochs=1,
            out=tmp_path / "other",
            settings=settings | {"data.max_bad": 3},
        )


def test_bad_files_met_before_a_stop_are_known_after_it(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    for name in ("cat/0.png", "dog/3.png", "dog/5.png"):
        spoil(photos / name)
    words = {"model": "densenet_bc_10_4", "epochs": 2}
    settings = {"data.image_size": 16, "batch_size": 4, "data.max_bad": 3}
    whole = densekit.train(str(photos), out=tmp_path / "whole", settings=settings, **words).folder
    for step in (1, 3, 5):
        cut = tmp_path / f"cut-{step}"
        train_until(step, str(photos), out=cut, settings=settings, **words)
        densekit.resume(cut)
        assert state_of(cut) == state_of(whole)
        assert (cut / "skipped.csv").read_text() == (whole / "skipped.csv").read_text()


def test_one_black_picture_is_no_divergence(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", count=8)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / "cat" / "0.png")
    settings = {"data.image_size": 16, "batch_size": 4}
    assert densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
