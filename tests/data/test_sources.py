"""Sources deliver what they say, or one clear error."""

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.config import DataConfig
from densekit.data import load
from densekit.data.prepare import preprocessing_for
from densekit.data.sets import ArrayImages
from densekit.data.sources.archives import DEBIAN_FASHION, read_idx
from densekit.errors import BadData, InvalidInput, UnknownName
from tests.narrow import expect_type


def source(name: str | Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"source": str(name)} | settings)


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    data = load(source("digits"), tmp_path)
    images = expect_type(data.splits["train"], ArrayImages)
    assert images.pixels.shape == (1797, 1, 8, 8)
    assert images.pixels.max() == 255
    assert not data.mirror_safe


def test_fashion_mnist_is_the_published_one(tmp_path: Path) -> None:
    """The compressed files of Debian differ from the authors' in the gzip header alone, so the content is checked."""
    if not DEBIAN_FASHION.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    data = load(source("fashion-mnist"), tmp_path)
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 60_000, "test": 10_000}
    assert torch.bincount(data.splits["test"].labels).tolist() == [1000] * 10
    pixels = expect_type(data.splits["test"], ArrayImages).pixels.numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest() == "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"
    preprocessing = preprocessing_for(data, source("fashion-mnist"))
    assert preprocessing.mean[0] == pytest.approx(0.2860, abs=1e-4)
    assert preprocessing.std[0] == pytest.approx(0.3530, abs=1e-4)


def write_idx(path: Path, array: np.ndarray) -> None:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_read_from_the_data_folder(tmp_path: Path, suffix: str) -> None:
    for prefix, count in (("train", 30), ("t10k", 10)):
        write_idx(tmp_path / "mnist" / f"{prefix}-images-idx3-ubyte{suffix}", np.full((count, 28, 28), 7))
        write_idx(tmp_path / "mnist" / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)
    data = load(source("mnist"), tmp_path)
    assert expect_type(data.splits["train"], ArrayImages).pixels.shape == (30, 1, 28, 28)
    assert data.splits["test"].labels.tolist() == list(range(10))


def test_a_truncated_idx_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "a", np.zeros((3, 2)))
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-1])
    with pytest.raises(BadData, match="is damaged"):
        read_idx(tmp_path, "a")


def test_cifar10_is_read_as_pictures_in_folders(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    names = [f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")]
    for name, picture in zip(names, pixels, strict=True):
        (tmp_path / "cifar10" / name).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "cifar10" / name / "a.webp", lossless=True)
    data = load(source("cifar10"), tmp_path)
    assert (data.name, data.classes) == ("cifar10", ("cat", "dog"))
    for split, (first, second) in {"train": pixels[:2], "test": pixels[2:]}.items():
        images = data.splits[split]
        assert isinstance(images, ArrayImages)
        assert torch.equal(images.pixels, torch.from_numpy(np.stack((first, second))).permute(0, 3, 1, 2))
        assert images.labels.tolist() == [0, 1]
    assert preprocessing_for(data, source("cifar10")).mean == pytest.approx((125.3 / 255, 123.0 / 255, 113.9 / 255))
    Image.new("RGB", (33, 32)).save(tmp_path / "cifar10/test/dog/b.png")
    with pytest.raises(BadData, match=r"b\.png has 33 x 32 pixels"):
        load(source("cifar10"), tmp_path)


def test_cifar10_is_read_in_the_authors_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of that format made here; torchvision's checksums are switched off, since these are not the originals."""
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    row = np.arange(3072, dtype=np.uint8)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps({"data": np.stack([row, row]), "labels": [3, 9]}))
    labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": labels}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load(source("cifar10"), tmp_path)
    assert data.classes == tuple(labels)
    assert expect_type(data.splits["train"], ArrayImages).pixels.shape == (10, 3, 32, 32)
    assert torch.equal(expect_type(data.splits["test"], ArrayImages).pixels[0].flatten(), torch.from_numpy(row))
    assert preprocessing_for(data, source("cifar10")).mean == pytest.approx((125.3 / 255, 123.0 / 255, 113.9 / 255))


def test_synthetic_images_are_the_same_every_time(tmp_path: Path) -> None:
    sets = [load(source("synthetic:6x5x7:3:12"), tmp_path) for _ in range(2)]
    first, second = (expect_type(data.splits["train"], ArrayImages) for data in sets)
    assert first.pixels.shape == (12, 7, 6, 5)
    assert torch.equal(first.pixels, second.pixels)


@pytest.mark.parametrize("name", ["synthetic:6x5:3", "synthetic:6x5x3:1", "synthetic:0x5x3:4"])
def test_a_malformed_synthetic_source_shows_the_form(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="synthetic"):
        load(source(name), tmp_path)


def test_an_unknown_name_offers_the_closest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean fashion-mnist"):
        load(source("fashionmnist"), tmp_path)


def test_imagenet_says_where_it_must_be(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot be downloaded"):
        load(source("imagenet"), tmp_path)


def test_splits_of_a_folder_are_kept(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "divided"
    for split in ("train", "test"):
        (root / split).parent.mkdir(exist_ok=True)
        os.symlink(photos, root / split)
    data = load(source(root), tmp_path)
    assert set(data.splits) == {"train", "test"}
    assert data.classes == ("cat", "dog")


def test_bad_files_stop_a_run_beyond_the_budget_and_are_listed_within_it(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "notes.jpg").write_text("not a picture")
    (photos / "dog" / "empty.png").touch()
    with pytest.raises(BadData, match=r"data\.max_bad"):
        load(source(photos), tmp_path)
    with pytest.raises(BadData, match=r"more than data\.max_bad=1"):
        load(source(photos, max_bad=1), tmp_path)
    data = load(source(photos, max_bad=2), tmp_path)
    assert len(data.splits["train"]) == 24
    assert {error.code for error in data.skipped.files.values()} == {"not_an_image", "empty_file"}


def test_statistics_of_a_folder_are_those_of_its_pixels(tmp_path: Path) -> None:
    for name, colour in (("a", (255, 0, 51)), ("b", (0, 0, 51))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), colour).save(tmp_path / name / "x.png")
    preprocessing = preprocessing_for(load(source(tmp_path), tmp_path), source(tmp_path, image_size=16))
    assert preprocessing.mean == pytest.approx((0.5, 0, 0.2), abs=1e-6)
    assert preprocessing.std == pytest.approx((0.5, 1, 1), abs=1e-6)
