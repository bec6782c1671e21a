"""What torch.set_default_dtype was given changes no result, and stays as it was."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import densekit
from densekit.default_dtype import float32_default
from densekit.errors import BadData
from tests.conftest import write_photos

SETTINGS: dict[str, Any] = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def odd_default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


def trained(photos: Path, out: Path) -> densekit.Run:
    return densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=out, settings=SETTINGS)


def test_training_evaluation_and_prediction_do_not_depend_on_the_default(
    odd_default: torch.dtype, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos")
    runs = []
    for name in ("plain", "odd"):
        if name == "odd":
            torch.set_default_dtype(odd_default)
        run = trained(photos, tmp_path / name)
        found = run.classifier()
        result = run.evaluate(photos, split="all", out=tmp_path / f"{name}-evaluated")
        runs.append((found.model.state_dict(), result.loss, found.predict(photos / "cat" / "0.png").probabilities))
    (plain, loss, probabilities), (odd, odd_loss, odd_probabilities) = runs
    assert {x.dtype for x in odd.values() if x.is_floating_point()} == {torch.float32}
    assert plain.keys() == odd.keys()
    assert all(torch.equal(plain[key], odd[key]) for key in plain)
    assert (loss, probabilities.tolist()) == (odd_loss, odd_probabilities.tolist())
    assert torch.get_default_dtype() == odd_default


def test_overlapping_calls_in_two_threads_stay_in_float32_and_restore_the_default(odd_default: torch.dtype) -> None:
    torch.set_default_dtype(odd_default)
    first_entered, second_entered, first_left = (threading.Event() for _ in range(3))
    seen: list[torch.dtype] = []

    def first() -> None:
        with float32_default():
            first_entered.set()
            second_entered.wait(60)
        first_left.set()

    def second() -> None:
        first_entered.wait(60)
        with float32_default():
            second_entered.set()
            first_left.wait(60)
            seen.append(torch.get_default_dtype())

    workers = [threading.Thread(target=work) for work in (first, second)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert seen == [torch.float32]
    assert torch.get_default_dtype() == odd_default


def test_an_error_leaves_the_default_as_it_was(odd_default: torch.dtype, tmp_path: Path) -> None:
    torch.set_default_dtype(odd_default)
    with pytest.raises(BadData):
        trained(tmp_path / "nothing", tmp_path / "run")
    assert torch.get_default_dtype() == odd_default


def test_a_stopped_run_is_resumed_to_the_same_bits_under_another_default(tmp_path: Path) -> None:
    from tests.faults.command import state_of, train_until

    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 2, "settings": SETTINGS}
    photos = write_photos(tmp_path / "photos")
    densekit.train(photos, out=tmp_path / "whole", **words)
    train_until(2, str(photos), out=tmp_path / "cut", **words)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        densekit.resume(tmp_path / "cut")
    finally:
        torch.set_default_dtype(before)
    assert state_of(tmp_path / "cut") == state_of(tmp_path / "whole")


@pytest.mark.slow
def test_an_export_and_an_analysis_work_under_another_default(tiny_run: Path, tmp_path: Path) -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        densekit.export_model(tiny_run, tmp_path / "exported")
        done = densekit.analyse(tiny_run, out=tmp_path / "analysis", only=["gradients", "maps"], images=8)
    finally:
        torch.set_default_dtype(before)
    assert (tmp_path / "exported" / "model.onnx").is_file()
    assert done.found.images == 8
