"""A reader's desk: the files that READMEs and pages speak of."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image

from densekit.data.sources import registry
from densekit.data.sources.synthetic import synthetic
from densekit.recipes.quick import _EPOCHS
from tests.conftest import write_photos
from tests.data.xrays import write_xrays


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the READMEs speak of, and small stand-ins for what would be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DENSEKIT_DATA", str(tmp_path / "data"))
    for photos in ("photos", "path/to/photos"):
        write_photos(tmp_path / photos)
    write_photos(tmp_path / "more/photos", size=44)
    write_xrays(tmp_path / "xrays")
    for picture in ("shoe.jpg", "new-picture.jpg", "photo.jpg"):
        Image.effect_noise((48, 40), 60).save(tmp_path / picture)
    write_fashion(tmp_path / "data" / "fashion-mnist")
    torch.save(densenet121_weights(), tmp_path / "densenet121.pth")
    monkeypatch.setitem(registry.NAMED, "cifar10", lambda _: synthetic("synthetic:32x32x3:10:60"))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", densenet121_weights)
    monkeypatch.setitem(_EPOCHS, "digits", 2)  # of `densekit demo`, which has no option for it
    return tmp_path


def write_fashion(folder: Path) -> None:
    """Files as Fashion-MNIST's, of noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for prefix, count in (("train", 100), ("t10k", 40)):
        images, labels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for name, array in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / name).write_bytes(header + array.tobytes())


def densenet121_weights(*_: Any, **__: Any) -> dict[str, Any]:
    """What torchvision would download."""
    return torchvision.models.densenet121().state_dict()
