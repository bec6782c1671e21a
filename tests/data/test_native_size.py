"""How large pictures are is read from headers, of a sample spread over the split."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from densekit.config import DataConfig
from densekit.data import load, native_size
from densekit.data.native_size import NativeSize
from densekit.data.sets import FileImages
from tests.conftest import spoil, write_photos


def of(folder: Path) -> NativeSize | None:
    images = load(DataConfig(source=str(folder), max_bad=100), folder).splits["train"]
    return native_size.native_size(images, max_pixels=10**8)


def test_the_shorter_side_counts(tmp_path: Path) -> None:
    assert of(write_photos(tmp_path / "photos", size=40)) == NativeSize(40, 40, 40, colour=True)


def test_only_headers_are_read(tmp_path: Path) -> None:
    """A file that is cut short has its size all the same."""
    folder = write_photos(tmp_path / "photos", size=40)
    for path in folder.rglob("*.png"):
        spoil(path)
    assert of(folder) == NativeSize(40, 40, 40, colour=True)


@pytest.mark.parametrize(("mode", "colour"), [("L", False), ("1", False), ("I;16", False), ("RGB", True), ("P", True)])
def test_grey_pictures_have_no_colour(mode: str, colour: bool, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new(mode, (9, 12 + i)).save(tmp_path / name / f"{i}.png")
    found = of(tmp_path)
    assert found is not None
    assert found.colour is colour


def test_images_in_memory_have_one_size(tmp_path: Path) -> None:
    images = load(DataConfig(source="synthetic:12x10x3:2:8"), tmp_path).splits["train"]
    assert native_size.native_size(images, max_pixels=10**8) == NativeSize(10, 10, 10, colour=True)


@given(sides=st.lists(st.integers(1, 3000), min_size=1, max_size=400))
def test_quantiles_are_numpys(sides: list[int]) -> None:
    """As few as fit into the sample are all looked at."""
    images = FileImages(tuple(Path(str(side)) for side in sides), labels_of(len(sides)), Path())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_size, "header_of", lambda path, **_: (int(str(path)), 4000, False))
        found = native_size.native_size(images, max_pixels=10**8)
    assert found is not None
    assert (found.low, found.median, found.high) == tuple(round(float(np.quantile(sides, q))) for q in (0.1, 0.5, 0.9))


def labels_of(count: int) -> torch.Tensor:
    import torch

    return torch.zeros(count, dtype=torch.int64)
