"""`densekit lr DATA` examines the run that `densekit train DATA` would train."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import densekit
from densekit.config import EmaConfig, Recipe
from densekit.training import find_lr, session
from densekit.training import request as requests
from densekit.training.setup import TrainContext
from densekit.weights import resolve
from tests.conftest import Command, write_photos
from tests.training.made_weights import no_network, ship


class Enough(Exception):
    """What is looked at is there."""


def looked_at(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, call: Any) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe and the initial weights that `call` hands to the function of that name."""
    seen: list[TrainContext] = []

    def stop(prepared: TrainContext, *_: object, **__: object) -> None:
        seen.append(prepared)
        raise Enough

    with monkeypatch.context() as patch:
        patch.setattr(where, name, stop)
        with pytest.raises(Enough):
            call()
    (prepared,) = seen
    return prepared.recipe, prepared.model.state_dict()


@pytest.mark.parametrize(
    ("given", "shipped"),
    [
        ({}, False),
        ({}, True),
        ({"recipe": "finetune"}, True),
        ({"recipe": "c10+", "model": "densenet_bc_10_4"}, True),
        ({"init": "none", "seed": 3, "settings": {"batch_size": 4}}, True),
    ],
)
def test_lr_takes_the_model_weights_size_and_recipe_that_train_takes(
    given: dict[str, Any], shipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_network(monkeypatch, tmp_path)
    monkeypatch.setattr(resolve, "SHIPPED", tmp_path / "shipped")
    if shipped:
        ship(tmp_path / "shipped")
    photos = write_photos(tmp_path / "photos", size=16)
    trained, begun = looked_at(
        monkeypatch, session, "fit", lambda: densekit.train(photos, out=tmp_path / "run", **given)
    )
    examined, start = looked_at(monkeypatch, find_lr, "rate_curve", lambda: densekit.find_lr(photos, **given))
    free = {"ema": EmaConfig(), "plan": "auto"}  # how blocks are executed changes no number, and no average is kept
    assert examined == trained.model_copy(update=free)
    assert (trained.init == "cifar10") is (shipped and given.get("recipe") != "c10+" and "init" not in given)
    assert start.keys() == begun.keys()
    assert all(torch.equal(start[name], begun[name]) for name in start)


def test_lr_says_what_was_decided_on_standard_error_in_80_columns(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_network(monkeypatch, tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(resolve, "SHIPPED", tmp_path / "shipped")
    ship(tmp_path / "shipped")
    write_photos(tmp_path / "photos", size=16)
    status, out, err = command("lr", "photos", "--steps", "20", "--json")
    assert status == 0
    assert json.loads(out)["current"] == 0.05
    lines = [line for line in err.splitlines() if not line.endswith(" ...")]
    assert lines[0] == "learning rates for densenet_bc_10_4 on photos"
    assert [line.split()[0] for line in lines if line[2:3].strip()][1:] == [
        "weights", "model", "size", "recipe", "epochs", "batch", "rate"
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80


def test_lr_warns_of_pictures_scaled_up_with_its_own_command(command: Command, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", size=16)
    words = ("--model", "densenet_bc_10_4", "--steps", "20", "--image-size", "32")
    status, _, err = command("lr", "photos", *words)
    assert status == 0
    assert "better: densekit lr photos --model densenet_bc_10_4 --image-size 16" in err


def test_lr_refuses_what_memory_cannot_hold(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "total_memory", lambda _: 1e5)
    write_photos(tmp_path / "photos", size=16)
    status, out, err = command("lr", "photos", "--model", "densenet_bc_10_4", "--epochs", "1")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].endswith(
        "try: densekit lr photos --model densenet_bc_10_4 --epochs 1 --set batch_size=2"
    )
