"""Initial weights that know the held-out images of a new run are not taken by default, and never in silence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import densekit
from densekit.data import load
from densekit.data.known_images import known_images
from densekit.data.sets import ArrayImages
from densekit.training.compose import compose
from densekit.training.facts import Given, facts_of
from densekit.training.leakage import leak
from densekit.weights import image_hashes, resolve
from tests.conftest import write_photos
from tests.training.made_weights import no_network, ship

SMALL: dict[str, Any] = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: " ".join(capsys.readouterr().err.split())


@pytest.fixture
def digits(tmp_path: Path) -> ArrayImages:
    images = load(compose("digits").data, tmp_path).splits["train"]
    assert isinstance(images, ArrayImages)
    return images


def written(images: ArrayImages, folder: Path, *, classes: int = 2, count: int = 20) -> Path:
    """`count` images of each of the first classes as PNG in class folders."""
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True)
        for sample in np.flatnonzero(images.labels.numpy() == label)[:count].tolist():
            picture = images.pixels[sample].permute(1, 2, 0).squeeze(-1).numpy()
            Image.fromarray(picture).save(folder / str(label) / f"{sample}.png")
    return folder


def shipped_with(folder: Path, images: ArrayImages) -> None:
    """A shipped `cifar10` in `folder` that was trained on `images`."""
    image_hashes.write(ship(folder), {"train": images.content_hashes()})


def colours(seed: int, count: int = 40) -> ArrayImages:
    import torch

    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return ArrayImages(pixels, torch.arange(count) % 2)


@pytest.mark.parametrize("grey", [False, True])
def test_an_image_in_a_file_is_known_by_its_pixels(grey: bool, tmp_path: Path, digits: ArrayImages) -> None:
    images = digits if grey else colours(0)
    folder = written(images.subset(np.arange(0, 40)), tmp_path / "pictures", count=3)
    files = load(compose(folder).data, tmp_path).splits["train"]
    known = images.content_hashes()
    assert known_images(files, known, in_memory=True).all()
    assert not known_images(files, known[40:], in_memory=True).any()


def test_evaluation_on_files_leaves_out_what_was_trained_on_as_arrays(
    tmp_path: Path, digits: ArrayImages, said: Callable[[], str]
) -> None:
    run = densekit.train(
        "digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings={"plan": "concat"}
    )
    hashes = image_hashes.read(tmp_path / "run/checkpoints/last")
    assert hashes is not None
    learned = np.isin(digits.content_hashes(), np.concatenate([hashes["train"], hashes["val"]]))
    folder = written(digits, tmp_path / "pictures", classes=10)
    names = [int(path.stem) for path in folder.rglob("*.png")]
    said()
    result = run.evaluate(folder)
    assert result.count == len(names) - int(learned[names].sum())
    assert f"left out {int(learned[names].sum())} of the {len(names)} images" in said()


def test_the_shipped_net_is_not_the_start_of_images_that_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "SHIPPED", tmp_path / "shipped")
    no_network(monkeypatch, tmp_path)
    seen, unseen = colours(0), colours(1)
    shipped_with(tmp_path / "shipped", seen)
    mixed = written(unseen, tmp_path / "mixed")
    recipe = compose(mixed)
    assert [each.source for each in facts_of(load(recipe.data, tmp_path), recipe, Given()).weights] == ["cifar10"]
    Image.fromarray(seen.pixels[0].permute(1, 2, 0).numpy()).save(mixed / "0" / "seen.png")
    facts = facts_of(load(recipe.data, tmp_path), recipe, Given())
    assert not facts.weights
    assert facts.excluded == "cifar10 was trained on some of these images"


def test_training_from_weights_that_know_the_test_images_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    """A split that training divides anew may hold images of the first training."""
    photos = write_photos(tmp_path / "photos", count=20)
    first = densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=tmp_path / "first", settings=SMALL)
    for split in ("train", "test"):
        shutil.copytree(photos, tmp_path / "again" / split)
    said()
    init = str(first.folder)
    densekit.train(
        tmp_path / "again", model="densenet_bc_10_4", epochs=1, out=tmp_path / "second", init=init, settings=SMALL
    )
    trained = image_hashes.read(tmp_path / "first/checkpoints/last")
    assert trained is not None
    assert f"{init} was trained on {len(trained['train'])} of the 40 test images" in said()
    own = load(compose(write_photos(tmp_path / "others", count=4, size=50)).data, tmp_path)
    assert leak(init, own) is None
