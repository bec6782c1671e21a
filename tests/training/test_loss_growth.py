"""A loss that stays finite and grows far beyond that of chance is a divergence too, where the recipe has a limit."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import densekit
from densekit.config import OptimizerConfig
from densekit.errors import Diverged, InvalidInput
from densekit.models import create_model
from densekit.runs import run_folder
from densekit.training import loss_growth
from densekit.training.checkpoint import read_checkpoint
from densekit.training.compose import compose
from densekit.training.optimizer import optimizer_for, set_rate
from densekit.training.schedule import learning_rate
from densekit.training.setup import prepare
from densekit.training.state import Progress
from tests.conftest import write_photos
from tests.faults.command import rows_of, state_of, train_until

NET: dict[str, Any] = {"model": "densenet_bc_10_4"}
# Far too high a rate, in a loss that does not become infinite: batch norm keeps the activations, the head explodes.
EXPLODING = {
    "data.limit": 200,
    "batch_size": 10,
    "optimizer.lr": 20.0,
    "schedule.name": "steps",
    "ema.decay": 0,
    "divergence.growth": 3.0,
    "plan": "concat",
}


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def events(folder: Path) -> list[str]:
    return [event["event"] for event in events_of(folder)]


@pytest.mark.parametrize("settings", [{}, {"class_weights": "balanced"}, {"label_smoothing": 0}])
def test_chance_is_the_logarithm_of_the_classes(settings: dict[str, object], tmp_path: Path) -> None:
    """Exactly where all images weigh alike; balanced weights are 1 on average over the classes only."""
    prepared = prepare(compose("digits", **NET, settings={"data.limit": 100, **settings}), tmp_path)
    within = 0.05 if "class_weights" in settings else 1e-6
    assert loss_growth.chance_loss(prepared) == pytest.approx(math.log(10), rel=within)


def test_chance_counts_labels_that_lie_class_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first alone it would be far too low, where a common class weighs little."""
    photos = write_photos(tmp_path / "photos", count=30)
    for path in sorted((photos / "dog").iterdir())[6:]:
        path.unlink()
    settings = {"class_weights": "balanced", "data.image_size": 16, "label_smoothing": 0}
    prepared = prepare(compose(str(photos), **NET, settings=settings), tmp_path)
    whole = loss_growth.chance_loss(prepared)
    monkeypatch.setattr(loss_growth, "_LABELS", 5)
    assert loss_growth.chance_loss(prepared) == pytest.approx(whole)
    assert whole > 0.9 * math.log(2)


def test_a_finite_loss_far_above_chance_ends_the_run_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"the training loss has grown to .*the limit is 6\.91.*lower the rate"):
        densekit.train("digits", **NET, epochs=2, out=tmp_path / "run", settings=EXPLODING)
    assert math.isfinite(json.loads((tmp_path / "run" / "diverged.json").read_text())["loss"])


def test_without_a_limit_a_run_is_as_it_was(tmp_path: Path) -> None:
    settings = EXPLODING | {"divergence.growth": None}
    finished = densekit.train("digits", **NET, epochs=1, out=tmp_path / "run", settings=settings)
    assert events(finished.folder) == ["start", "finish"]


def test_going_back_at_a_lower_rate_answers_it(tmp_path: Path) -> None:
    settings = EXPLODING | {"divergence.rollbacks": 2, "divergence.factor": 0.002}
    finished = densekit.train("digits", **NET, epochs=2, out=tmp_path / "run", settings=settings)
    assert events(finished.folder) == ["start", "rollback", "finish"]
    assert finished.result.loss < math.log(10) * 5
    names = {path.name for path in (finished.folder / "checkpoints").iterdir()}
    assert names == {"last", "result"}


def test_it_goes_back_to_before_the_growth_also_when_that_was_saved_meanwhile(tmp_path: Path) -> None:
    settings = EXPLODING | {"checkpoint.every_steps": 4, "divergence.rollbacks": 1, "divergence.factor": 0.002}
    finished = densekit.train("digits", **NET, epochs=1, out=tmp_path / "run", settings=settings)
    lines = [json.loads(line) for line in (finished.folder / "events.jsonl").read_text().splitlines()]
    (back,) = (line for line in lines if line["event"] == "rollback")
    assert "training loss has grown" in back["reason"]
    assert back["step"] == 0


def test_a_stop_between_steps_above_the_limit_changes_nothing(tmp_path: Path) -> None:
    """The count of them is in the checkpoint."""
    settings = EXPLODING | {"divergence.rollbacks": 2, "divergence.factor": 0.002}
    whole = densekit.train("digits", **NET, epochs=2, out=tmp_path / "whole", settings=settings).folder
    train_until(6, "digits", **NET, epochs=2, out=tmp_path / "cut", settings=settings)
    progress = read_checkpoint(tmp_path / "cut" / "checkpoints" / "last").document["progress"]
    assert progress["high_steps"] > 0
    densekit.resume(tmp_path / "cut")
    assert state_of(tmp_path / "cut") == state_of(whole)


def test_a_default_run_that_diverges_goes_back_by_itself_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that decay by more than twice their size in a step grow instead, whatever the pictures are."""
    photos = write_photos(tmp_path / "photos", count=40, size=16)
    settings = {"optimizer.weight_decay": 200.0, "batch_size": 8, "plan": "concat"}
    words: dict[str, Any] = {**NET, "epochs": 5, "settings": settings}
    whole = densekit.train(photos, out=tmp_path / "whole", **words)
    assert events(whole.folder) == ["start", "rollback", "finish"]
    said = " ".join(capsys.readouterr().err.split())
    assert "training loss has grown to" in said
    assert re.search(r"Going back to step \d+, with 0\.25 of the rate \(1 of 4 times\)", said)
    (back,) = (event for event in events_of(whole.folder) if event["event"] == "rollback")
    later = [row for row in rows_of(whole.folder) if row["step"] > back["step"]]
    recipe = run_folder.recipe_of(whole.folder)
    for row in later:
        share = row["epoch"] / recipe.epochs - 1 / rows_of(whole.folder)[-1]["step"]
        assert row["lr"] == pytest.approx(learning_rate(recipe.schedule, recipe.optimizer.lr, share) / 4, rel=1e-6)
        assert row["val_loss"] < 1
    train_until(back["step"] + 3, photos, out=tmp_path / "cut", **words)
    densekit.resume(tmp_path / "cut")
    assert state_of(tmp_path / "cut") == state_of(whole.folder)


# Decay makes the convolutions' weights 1.2 times as large in each step. Batch norm undoes that in training; the running
# statistics, which lag behind, do not undo it in validation.
LAGGING = {
    "data.limit": 260,
    "batch_size": 10,
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.0,
    "optimizer.weight_decay": 22.0,
    "optimizer.no_decay": ["*norm*", "classifier*"],
    "schedule.name": "steps",
    "schedule.milestones": [],
    "ema.decay": 0,
    "divergence.growth": 3.0,
    "divergence.factor": 0.01,
    "plan": "concat",
}


def test_a_validation_loss_that_grows_is_answered_likewise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it was stopped between the two validations that are above the limit."""
    words: dict[str, Any] = {**NET, "epochs": 4, "settings": LAGGING | {"divergence.rollbacks": 1}}
    whole = densekit.train("digits", out=tmp_path / "whole", **words)
    assert events(whole.folder) == ["start", "rollback", "finish"]
    said = " ".join(capsys.readouterr().err.split())
    assert "the validation loss has grown to" in said
    assert "in epoch 3" in said
    assert "Going back to step 26, with 0.01 of the rate (1 of 1 times)" in said
    train_until(60, "digits", out=tmp_path / "cut", **words)
    progress = read_checkpoint(tmp_path / "cut" / "checkpoints" / "last").document["progress"]
    assert (progress["step"], progress["high_validations"], progress["rollbacks"]) == (60, 1, 0)
    densekit.resume(tmp_path / "cut")
    assert state_of(tmp_path / "cut") == state_of(whole.folder)
    assert {path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()} == {"last", "result"}


def test_a_validation_loss_that_grows_is_named_where_no_rollback_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = densekit.train("digits", **NET, epochs=3, out=tmp_path / "run", settings=LAGGING)
    assert events(finished.folder) == ["start", "finish"]
    losses = [row["train_loss"] for row in rows_of(finished.folder)]
    assert len(losses) == 3
    assert max(losses) < 2.5, "nothing but the validation shows it"
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"the validation loss has grown to [\d.]+ \(the limit is 27\.6\) in epoch 3: lower the rate", said)


def test_one_odd_batch_is_no_growth() -> None:
    progress = Progress()
    losses = [1.0, 100.0, 1.0] * 10
    assert not any(loss_growth.after_step(progress, 10.0, loss, 0.1) for loss in losses)
    assert [bool(loss_growth.after_step(progress, 10.0, 100.0, 0.1)) for _ in range(loss_growth.STEPS)][-2:] == [
        False,
        True,
    ]
    assert progress.doubtful


def test_two_validations_far_above_chance_are_one_too_many_and_so_is_the_last(tmp_path: Path) -> None:
    settings = {"data.limit": 100, "divergence.growth": 5.0}
    prepared = prepare(compose("digits", **NET, epochs=4, settings=settings), tmp_path)
    far = 4 * 5 * math.log(10) + 1
    progress = Progress(step=100)
    assert loss_growth.after_validation(progress, prepared, far, 0.1) is None
    assert loss_growth.after_validation(progress, prepared, 1.0, 0.1) is None
    assert loss_growth.after_validation(progress, prepared, far, 0.1) is None
    assert loss_growth.after_validation(progress, prepared, far, 0.1) is not None
    last = Progress(step=100, epoch=3)
    assert loss_growth.after_validation(last, prepared, far, 0.1) is not None
    fresh = Progress(step=10, epoch=3)
    assert loss_growth.after_validation(fresh, prepared, far, 0.1) is None, "running statistics have not settled yet"


def test_the_body_takes_a_share_of_the_rate_and_the_head_all_of_it() -> None:
    model = create_model("densenet_bc_10_4", num_classes=3)
    optimizer = optimizer_for(model, OptimizerConfig(name="sgd", body_lr=0.25, no_decay=("*norm*",)))
    set_rate(optimizer, 0.1)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (0.1 if name.startswith("classifier.") else 0.025), name
        assert (decays[id(parameter)] == 0) is ("norm" in name), name


def test_without_a_share_groups_are_those_of_older_runs() -> None:
    model = create_model("densenet_bc_10_4", num_classes=3)
    plain = optimizer_for(model, OptimizerConfig())
    assert [sorted(set(group) & {"lr_factor"}) for group in plain.param_groups] == [[]]
    assert isinstance(model.get_submodule("classifier"), nn.Linear)
    with pytest.raises(InvalidInput, match="body_lr"):
        compose("digits", settings={"optimizer.body_lr": 0})


def test_another_librarys_head_is_found(tmp_path: Path) -> None:
    model = create_model("torchvision:resnet18", num_classes=3)
    optimizer = optimizer_for(model, OptimizerConfig(body_lr=0.5))
    head = {id(p) for p in model.get_submodule("net.fc").parameters()}
    by_factor = {group.get("lr_factor", 1.0): {id(p) for p in group["params"]} for group in optimizer.param_groups}
    assert by_factor[1.0] == head
    assert sum(map(len, by_factor.values())) == len(list(model.parameters()))
    assert torch.is_grad_enabled()
