"""A new source is a function and a line in a table: loading, prediction and paths follow from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densekit import Classifier
from densekit.config import DataConfig
from densekit.data import load
from densekit.data.sets import ArrayImages, DataSet
from densekit.data.sources import registry
from densekit.data.sources.registry import Source, at_hand, located, missing, place_of, same_source
from densekit.errors import InvalidInput


def npz(path: Path) -> DataSet:
    """toy:FILE, an archive of `pixels` and `labels`."""
    with np.load(path) as arrays:
        images = ArrayImages(torch.from_numpy(arrays["pixels"]), torch.from_numpy(arrays["labels"]))
    return DataSet(str(path), ("a", "b"), {"train": images})


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the toy source, which is there as long as the test."""
    path = tmp_path / "toy.npz"
    pixels = np.arange(4 * 64, dtype=np.uint8).reshape(4, 1, 8, 8)
    np.savez(path, pixels=pixels, labels=np.array([0, 1, 0, 1]))
    Image.fromarray(pixels[0, 0]).save(tmp_path / "first.png")
    toy = Source(
        lambda rest, config, *, strict, expected: npz(Path(rest)),
        Path,
        lambda rest, config, column: [("first", (tmp_path / "first.png").read_bytes)],
    )
    monkeypatch.setitem(registry.PREFIXES, "toy", toy)
    return path


def test_data_of_a_new_prefix_are_loaded(file: Path, tmp_path: Path) -> None:
    data = load(DataConfig(source=f"toy:{file}"), tmp_path)
    assert (data.name, data.classes, len(data.splits["train"])) == ("toy:toy.npz", ("a", "b"), 4)


def test_images_of_a_new_prefix_are_predicted(file: Path) -> None:
    ((name, prediction),) = Classifier.load("fashion-mnist").predict_files(f"toy:{file}")
    assert name == "first"
    assert not isinstance(prediction, Exception)


def test_the_path_after_a_new_prefix_is_a_place(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = DataConfig(source="toy:toy.npz")
    assert place_of(config.source) == Path("toy.npz")
    assert located(config).source == f"toy:{file}"
    assert same_source(config.source, f"toy:{file}")
    assert missing(config) is None
    assert missing(DataConfig(source="toy:gone")) == ("data.source=toy:", Path("gone"))
    assert at_hand(config.source, tmp_path)


@pytest.mark.usefixtures("file")
def test_a_new_prefix_alone_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="names nothing"):
        load(DataConfig(source="toy:"), tmp_path)


def test_without_its_line_it_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="unknown data set or folder 'toy:x'"):
        load(DataConfig(source="toy:x"), tmp_path)
