"""A loss, weights or outputs that are not finite stop the run with what is needed to find out why, or it goes back."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import densekit
from densekit.errors import BadData, BadWeights, Diverged
from densekit.runs import run_folder
from densekit.training import nonfinite, trainer
from densekit.training.checkpoint import read_checkpoint
from densekit.training.compose import compose
from densekit.training.setup import prepare
from densekit.training.state import TrainState
from densekit.training.step import Outcome, train_step
from densekit.weights.folder import not_finite
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


@pytest.mark.slow
def test_the_exit_status_is_4(tmp_path: Path) -> None:
    settings = [word for key, value in DIVERGING.items() for word in ("--set", f"{key}={value}")]
    _, err = run("train", "digits", "--model", "densenet_bc_10_4", *settings, folder=tmp_path, status=4)
    assert err.splitlines()[-1].startswith("densekit: the loss became")


def test_a_disk_that_is_full_by_then_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise BadData("no space left")

    monkeypatch.setattr(nonfinite, "write_dump", full)
    with pytest.raises(Diverged, match="learning rate") as error:
        densekit.train("digits", model="densenet_bc_10_4", epochs=3, out=tmp_path / "run", settings=DIVERGING)
    assert "diverged.json" not in str(error.value), "it names a file that is not there"


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_going_back_lowers_the_rate_until_it_holds(precision: str, tmp_path: Path) -> None:
    settings = DIVERGING | {"divergence.rollbacks": 1, "divergence.factor": 1e-21, "precision": precision}
    finished = densekit.train("digits", model="densenet_bc_10_4", epochs=2, out=tmp_path / "run", settings=settings)
    events = [json.loads(line) for line in (finished.folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "rollback", "finish"]
    losses = [row["train_loss"] for row in run_folder.metrics(finished.folder)]
    assert len(losses) == 2
    assert max(losses) < 10


def test_a_gradient_that_is_no_number_changes_nothing(tmp_path: Path) -> None:
    """The loss may be finite all the same, as where a square root meets zero."""
    recipe = compose("digits", model="densenet_bc_10_4", settings={"data.limit": 64})
    prepared = prepare(recipe, tmp_path)
    state = trainer.start(prepared)
    before = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
    prepared.model.get_parameter("classifier.bias").register_hook(lambda gradient: gradient * float("nan"))
    batch = next(prepared.loader("train", recipe.augment).epoch(0))
    outcome = train_step(state, batch, prepared, 0.1, [len(batch.samples)])
    assert np.isfinite(outcome.loss)
    assert outcome.fault == "gradient became nan"
    for name, tensor in state.model.named_parameters():
        assert torch.equal(tensor, before[name]), name


def test_float16_stops_when_no_scale_makes_its_gradients_finite(tmp_path: Path) -> None:
    """The scaler would halve its scale down to 0, and train nothing."""
    recipe = compose("digits", model="densenet_bc_10_4", settings={"data.limit": 64, "precision": "float16"})
    prepared = prepare(recipe, tmp_path)
    state = trainer.start(prepared)
    prepared.model.get_parameter("classifier.bias").register_hook(lambda gradient: gradient * float("nan"))
    batch = next(prepared.loader("train", recipe.augment).epoch(0))
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0})
    faults = [train_step(state, batch, prepared, 0.1, [len(batch.samples)]).fault for _ in range(3)]
    # At 2 and 1 it may be an overflow, which is the scaler's business.
    assert faults == [None, None, "gradient became nan"]


# A rate whose last steps leave weights that are finite and running statistics that are too large for new images.
OVERFLOWING = {"data.image_size": 32, "batch_size": 16, "optimizer.lr": 1e6, "ema.decay": 0}


def table_of(photos: Path, path: Path) -> str:
    """The photos as a data set of two labels an image."""
    images = sorted(photos.rglob("*.png"))
    rows = [f"{image},{int(image.parent.name == 'cat')},{i % 2}" for i, image in enumerate(images)]
    path.write_text("\n".join(["path,cat,odd", *rows]) + "\n")
    return f"csv:{path}"


def strict(path: Path) -> Any:
    """JSON, as its standard has it: without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize("labels", [1, 2])
def test_validation_outputs_that_are_not_finite_are_a_divergence(labels: int, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", count=20)
    settings = OVERFLOWING | ({"data.label_columns": "cat,odd", "optimizer.lr": 1e5} if labels == 2 else {})
    data = table_of(photos, tmp_path / "labels.csv") if labels == 2 else str(photos)
    run_folder = tmp_path / "run"
    with pytest.raises(Diverged, match=r"outputs became not finite for \d images of val"):
        densekit.train(data, model="densenet_bc_16_8", epochs=1, out=run_folder, settings=settings)
    dump = strict(run_folder / "diverged.json")
    assert dump["split"] == "val"
    split = (run_folder / "split.csv").read_text().splitlines()
    assert dump["images"]
    assert all(any(line.startswith(f"val,{image},") for line in split) for image in dump["images"])
    assert not (run_folder / "result.json").exists()
    assert read_checkpoint(run_folder / "checkpoints" / "last").document["progress"]["step"] == 0
    with pytest.raises(BadWeights, match="diverged and has no result: the outputs became not finite"):
        densekit.load(run_folder)
    assert not not_finite(densekit.load(run_folder / "checkpoints" / "last").model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_validation_that_is_not_finite_goes_back_to_the_checkpoint_before(ranks: int, tmp_path: Path) -> None:
    """Several processes save before they validate: that checkpoint would lead to the same outputs again."""
    write_photos(tmp_path / "photos", count=20)
    settings = OVERFLOWING | {"divergence.rollbacks": 1, "divergence.factor": 1e-8}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words += ["--model", "densenet_bc_16_8", "--epochs", "1", "--out", "run"]
    run("train", "photos", *words, folder=tmp_path, ranks=ranks)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "rollback", "finish"]
    assert strict(tmp_path / "run" / "result.json")["loss"] < 10
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["last", "result"]


def poisoned(monkeypatch: pytest.MonkeyPatch, poison: Callable[[TrainState], Tensor], step: int) -> None:
    """Makes one value of a tensor infinite after that step, which the loss of that step cannot show."""

    def and_poison(state: TrainState, *given: Any) -> Outcome:
        outcome = train_step(state, *given)
        if state.progress.step + 1 == step and not state.progress.rollbacks:
            poison(state).view(-1)[0] = float("inf")
        return outcome

    monkeypatch.setattr(trainer, "train_step", and_poison)


@pytest.mark.parametrize(
    ("poison", "name"),
    [
        (lambda state: state.model.get_parameter("classifier.weight").data, "model.classifier.weight"),
        # An infinite variance makes finite outputs: nothing but the tensor itself shows it.
        (lambda state: state.model.get_buffer("features.norm5.running_var"), "model.features.norm5.running_var"),
        (lambda state: state.average.module.classifier.bias.data, "average.classifier.bias"),
        (
            lambda state: state.optimizer.state[state.model.classifier.bias]["momentum_buffer"],
            "optimizer.classifier.bias.momentum_buffer",
        ),
    ],
)
def test_a_last_step_that_spoils_the_state_replaces_no_checkpoint(
    poison: Callable[[TrainState], Tensor], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, poison, step=8)
    settings = {"data.limit": 200, "batch_size": 50, "ema.decay": 0.9}
    with pytest.raises(Diverged, match=re.escape(f"weights became not finite ({name}) after step 8")):
        densekit.train("digits", model="densenet_bc_10_4", epochs=2, out=tmp_path / "run", settings=settings)
    assert strict(tmp_path / "run" / "diverged.json")["tensors"] == [name]
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last").document["progress"]["step"] == 4
    assert not not_finite(densekit.load(tmp_path / "run" / "checkpoints" / "last").model.state_dict())


def test_a_checkpoint_within_an_epoch_is_not_replaced_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, lambda state: state.model.get_buffer("features.norm5.running_var"), step=3)
    settings = {"data.limit": 200, "batch_size": 50, "checkpoint.every_steps": 1, "divergence.rollbacks": 1}
    finished = densekit.train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    events = [json.loads(line) for line in (finished.folder / "events.jsonl").read_text().splitlines()]
    assert [event.get("step") for event in events if event["event"] == "rollback"] == [2]


@pytest.mark.slow
def test_torchrun_does_not_diverge_again_and_again(tmp_path: Path) -> None:
    settings = [word for key, value in DIVERGING.items() for word in ("--set", f"{key}={value}")]
    words = ("train", "digits", "--model", "densenet_bc_10_4", "--epochs", "3", "--out", "run", *settings)
    _, err = run(*words, folder=tmp_path, ranks=2, restarts=2, status=1)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "diverged"]
    assert "the loss became" in err


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
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
        "--set",
        "batch_size=6",
    )
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
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 2}
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
    finished = densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    (row,) = run_folder.metrics(finished.folder)
    assert np.isfinite(row["train_loss"])
    assert "rollback" not in (finished.folder / "events.jsonl").read_text()
