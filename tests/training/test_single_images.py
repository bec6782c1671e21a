"""Batch norm cannot learn from one image: no step is made of one, and where that costs anything it is said."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import densekit
from densekit.data import Loader
from densekit.data.loader import leaves_one
from densekit.distributed.process_group import ALONE
from densekit.errors import InvalidInput
from densekit.models import config_for
from densekit.models.cost import needs_two_images
from densekit.recipes import recipe_for
from densekit.runs import run_folder
from densekit.training.setup import prepare
from densekit.training.step import pieces_of
from tests.conftest import spoil, write_photos
from tests.faults.command import run as run_command
from tests.faults.command import train_until

NET = "densenet_bc_10_4"  # its last maps are a quarter of the image
SMALL: dict[str, Any] = {"data.image_size": 4, "batch_size": 4, "plan": "concat"}


@pytest.fixture
def nine(tmp_path: Path) -> str:
    """Nine training images, as two batches of four and one image, and a validation split."""
    write_photos(tmp_path / "photos/train", count=4)
    write_photos(tmp_path / "photos/val", count=2, size=44)
    spare = write_photos(tmp_path / "spare", count=1, size=50)
    (spare / "cat/0.png").rename(tmp_path / "photos/train/cat/x.png")
    return str(tmp_path / "photos")


def loader_of(data: str, *, join: bool, **changes: Any) -> Loader:
    recipe = recipe_for("quick", data, config_for(NET)).model_copy(update={"batch_size": 4})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"image_size": (4, 4)})})
    prepared = prepare(recipe, Path())
    loader = prepared.loader("train", recipe.augment)
    assert loader.join_last_image
    return replace(loader, join_last_image=join, **changes)


@pytest.mark.parametrize(
    ("images", "batch", "one"), [(9, 4, True), (8, 4, False), (10, 4, False), (1, 4, False), (5, 1, False)]
)
def test_only_a_remainder_of_one_is_alone(images: int, batch: int, *, one: bool) -> None:
    assert leaves_one(images, batch) == one


def test_a_last_image_joins_the_batch_before_it(nine: str) -> None:
    joined, apart = loader_of(nine, join=True), loader_of(nine, join=False)
    sizes = [len(batch.samples) for batch in joined.epoch()]
    assert (sizes, len(joined)) == ([4, 5], 2)
    assert [len(batch.samples) for batch in apart.epoch()] == [4, 4, 1]
    order = [torch.cat([batch.samples for batch in loader.epoch(3)]) for loader in (joined, apart)]
    assert torch.equal(*order)


def test_going_on_within_an_epoch_sees_the_same_batches(nine: str) -> None:
    loader = loader_of(nine, join=True)
    whole = [batch.samples.tolist() for batch in loader.epoch(2)]
    assert [batch.samples.tolist() for batch in loader.epoch(2, skip=1)] == whole[1:]


def test_processes_divide_the_joined_batch(nine: str) -> None:
    shares = [loader_of(nine, join=True, rank=rank, size=2) for rank in (0, 1)]
    assert [[len(batch.samples) for batch in share.epoch()] for share in shares] == [[2, 3], [2, 2]]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_network_that_ends_in_one_pixel_trains_on_any_number_of_images(
    accumulate: int, nine: str, tmp_path: Path
) -> None:
    run = densekit.train(nine, model=NET, epochs=1, out=tmp_path / "run", settings=SMALL | {"accumulate": accumulate})
    assert run_folder.recipe_of(run.folder).join_last_image
    assert run_folder.metrics(run.folder)[0]["step"] == 2


def test_a_stopped_run_ends_in_the_weights_of_a_whole_one(nine: str, tmp_path: Path) -> None:
    words: dict[str, Any] = {"model": NET, "epochs": 2, "settings": SMALL}
    whole = densekit.train(nine, out=tmp_path / "whole", **words).folder
    train_until(1, nine, out=tmp_path / "cut", **words)
    densekit.resume(tmp_path / "cut")
    name = "checkpoints/last/model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes()


def test_runs_without_such_a_batch_are_as_before(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", count=12)
    run = densekit.train(str(photos), model=NET, epochs=1, out=tmp_path / "run", settings=SMALL | {"batch_size": 5})
    assert not run_folder.recipe_of(run.folder).join_last_image


def test_a_run_of_an_older_version_keeps_its_batches_and_says_what_it_leaves_out(
    nine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last batch had one image; there the older version ended with a traceback."""
    folder = tmp_path / "run"
    densekit.train(nine, model=NET, epochs=1, out=folder, settings=SMALL)
    for path in (folder / "config.yaml",):
        path.write_text(path.read_text().replace("join_last_image: true", "join_last_image: false"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densekit.training.resume._compare", lambda *_, **__: None)
        densekit.resume(folder, epochs=2)
    assert run_folder.metrics(folder)[1]["step"] == 2 + 3
    assert "step 3 of epoch 2 is left out" in capsys.readouterr().err


def test_so_does_a_batch_whose_other_images_are_unreadable(
    nine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png"):
        spoil(Path(nine) / "train" / name)
    settings = SMALL | {"data.max_bad": 6, "batch_size": 2}
    densekit.train(nine, model=NET, epochs=1, out=tmp_path / "run", settings=settings)
    assert "is left out: it has one image" in capsys.readouterr().err


def test_batches_of_one_image_are_refused_before_training(nine: str, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"batch_size=1 .* at 4x4 are one pixel.*raise batch_size, or the image size"
    ):
        densekit.train(nine, model=NET, epochs=1, out=tmp_path / "run", settings=SMALL | {"batch_size": 1})
    assert not (tmp_path / "run").exists()


def test_they_are_allowed_where_maps_have_more_pixels(nine: str, tmp_path: Path) -> None:
    settings = SMALL | {"batch_size": 1, "data.image_size": 8}
    assert densekit.train(nine, model=NET, epochs=1, out=tmp_path / "run", settings=settings).result.count == 4


@pytest.mark.parametrize(("name", "size", "needs"), [(NET, 4, True), (NET, 8, False), ("densenet121", 32, True)])
def test_which_networks_need_two_images(name: str, size: int, *, needs: bool) -> None:
    assert needs_two_images(config_for(name), (size, size)) == needs


def test_pieces_stay_as_asked_for_where_maps_have_more_pixels() -> None:
    recipe = recipe_for("quick", "digits", config_for(NET)).model_copy(update={"accumulate": 9})
    large = recipe.model_copy(update={"model": recipe.model.model_copy(update={"image_size": (8, 8)})})
    small = recipe.model_copy(update={"model": recipe.model.model_copy(update={"image_size": (4, 4)})})
    assert pieces_of([16], large, ALONE, whole=False, epoch=0) == 9
    assert pieces_of([16], small, ALONE, whole=False, epoch=0) == 8
    assert pieces_of([1], small, ALONE, whole=False, epoch=0) == 0


@pytest.mark.slow
def test_two_processes_with_an_image_each_share_their_statistics(nine: str, tmp_path: Path) -> None:
    words = ("train", nine, "--model", NET, "--epochs", "1", "--image-size", "4", "--set", "batch_size=2")
    run_command(*words, "--out", "run", folder=tmp_path, ranks=2)
    assert run_folder.metrics(tmp_path / "run")[0]["step"] == 4
