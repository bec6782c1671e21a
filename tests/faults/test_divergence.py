"""A loss that is not finite stops the run with what is needed to find out why, or goes back if asked to."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densekit
from densekit.engine import runs
from densekit.errors import BadData, Diverged
from tests.conftest import write_photos
from tests.faults.command import run

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


def test_going_back_lowers_the_rate_until_it_holds(tmp_path: Path) -> None:
    settings = DIVERGING | {"divergence.rollbacks": 1, "divergence.factor": 1e-21}
    finished = densekit.train("digits", model="densenet_bc_10_4", epochs=2, out=tmp_path / "run", settings=settings)
    events = [json.loads(line) for line in (finished.folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "rollback", "finish"]
    assert all(row["train_loss"] < 10 for row in runs.metrics(finished.folder))


@pytest.mark.parametrize("ranks", [1, 2])
def test_bad_files_within_the_budget_are_the_same_on_every_process(ranks: int, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    for name in ("cat/0.png", "dog/3.png"):
        (photos / name).write_bytes(b"no picture")
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
    _, err = run(*arguments[:-1], "batch_size=6", "--set", "data.max_bad=2", folder=tmp_path, ranks=ranks)
    skipped = (tmp_path / "run" / "skipped.csv").read_text()
    assert "cat/0.png" in skipped
    assert "dog/3.png" in skipped


def test_a_batch_without_a_single_readable_image_is_passed_over(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", count=8)
    for path in sorted((photos / "cat").iterdir())[:4]:
        path.write_bytes(b"no picture")
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


def test_one_black_picture_is_no_divergence(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", count=8)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / "cat" / "0.png")
    settings = {"data.image_size": 16, "batch_size": 4}
    assert densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
