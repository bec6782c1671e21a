"""The field's data sets, in the formats their authors publish; downloaded by torchvision where they are missing."""

import gzip
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from densekit.config import DataConfig
from densekit.data.decoding.decode import MAX_PIXELS
from densekit.data.sets import ArrayImages, DataSet, FileImages, Images
from densekit.data.sources.folder import folder
from densekit.errors import BadData

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip
# Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")

_IDX_FILES = {"train": "train", "test": "t10k"}

PLACES: dict[str, Callable[[Path], tuple[Path, ...]]] = {
    "mnist": lambda data_dir: (data_dir / "mnist", data_dir / "MNIST" / "raw"),
    "fashion-mnist": lambda data_dir: (data_dir / "fashion-mnist", data_dir / "FashionMNIST" / "raw", DEBIAN_FASHION),
    "cifar10": lambda data_dir: (data_dir / "cifar10",),
    "cifar100": lambda data_dir: (data_dir / "cifar100",),
    "svhn": lambda data_dir: (data_dir / "svhn",),
}
"""Where each is looked for, before it is downloaded."""


def mnist(data_dir: Path) -> DataSet:
    """LeCun et al. 1998: 60,000 + 10,000 digits of 28 x 28 pixels."""
    splits = _idx_splits("MNIST", [*PLACES["mnist"](data_dir), data_dir], data_dir)
    return DataSet("mnist", tuple(str(i) for i in range(10)), splits, mirror_safe=False, background="dark")


def fashion_mnist(data_dir: Path) -> DataSet:
    """Xiao et al. 2017: 60,000 + 10,000 pictures of clothing, 28 x 28 pixels, light on black."""
    splits = _idx_splits("FashionMNIST", PLACES["fashion-mnist"](data_dir), data_dir)
    return DataSet("fashion-mnist", FASHION_CLASSES, splits, background="dark")


def cifar10(data_dir: Path) -> DataSet:
    """Krizhevsky 2009: 50,000 + 10,000 photographs of 32 x 32 pixels in 10 classes.

    In the authors' format, or as pictures in DATA_DIR/cifar10/{train,test}/<class>/.
    """
    return _cifar("CIFAR10", "cifar10", data_dir, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))


def cifar100(data_dir: Path) -> DataSet:
    """Krizhevsky 2009: 50,000 + 10,000 photographs of 32 x 32 pixels in 100 classes."""
    return _cifar("CIFAR100", "cifar100", data_dir, mean=(129.3, 124.1, 112.4), std=(68.2, 65.4, 70.4))


def svhn(data_dir: Path) -> DataSet:
    """Netzer et al. 2011: house numbers, 32 x 32 pixels. Training is train + extra: 604,388 images."""
    parts = {name: _fetch("SVHN", data_dir / "svhn", data_dir, split=name) for name in ("train", "extra", "test")}
    arrays = {
        name: ArrayImages(torch.from_numpy(part.data), torch.from_numpy(part.labels.astype(np.int64)))
        for name, part in parts.items()
    }
    train = ArrayImages(
        torch.cat((arrays["train"].pixels, arrays["extra"].pixels)),
        torch.cat((arrays["train"].labels, arrays["extra"].labels)),
    )
    splits = {"train": train, "test": arrays["test"]}
    return DataSet("svhn", tuple(str(i) for i in range(10)), splits, mirror_safe=False)


def _cifar(kind: str, name: str, data_dir: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> DataSet:
    if all((data_dir / name / split).is_dir() for split in ("train", "test")):
        classes, splits = _pictures(data_dir / name, side=32)
        return _named_cifar(name, classes, splits, mean, std)
    parts = {split: _fetch(kind, data_dir / name, data_dir, train=split == "train") for split in ("train", "test")}
    splits = {
        split: ArrayImages(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for split, part in parts.items()
    }
    return _named_cifar(name, tuple(parts["train"].classes), splits, mean, std)


def _named_cifar(
    name: str, classes: tuple[str, ...], splits: Mapping[str, Images], mean: tuple[float, ...], std: tuple[float, ...]
) -> DataSet:
    mean, std = (tuple(value / 255 for value in values) for values in (mean, std))
    return DataSet(name, classes, splits, mean=mean, std=std)


def _pictures(place: Path, side: int) -> tuple[tuple[str, ...], dict[str, ArrayImages]]:
    """Classes and splits of pictures in folders, all of them RGB of that size; read into memory."""
    found = folder(place, DataConfig(source=str(place)))
    splits = {}
    for split, images in found.splits.items():
        assert isinstance(images, FileImages)
        pixels = torch.empty(len(images), 3, side, side, dtype=torch.uint8)
        for sample, path in enumerate(images.paths):
            picture = images.decoded(sample, channels=3, max_pixels=MAX_PIXELS).image
            if picture.size != (side, side):
                size = f"{picture.width} x {picture.height}"
                raise BadData(f"{path} has {size} pixels, not {side} x {side}; copy it again")
            pixels[sample] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        splits[split] = ArrayImages(pixels, images.labels)
    return found.classes, splits


def _fetch(kind: str, root: Path, data_dir: Path, **options: Any) -> Any:
    """Torchvision's data set `kind` under `root`, downloaded if it is not there."""
    import torchvision.datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        return getattr(torchvision.datasets, kind)(root, download=True, **options)
    except (OSError, RuntimeError) as error:
        raise BadData(
            f"{kind} is not in {root} and could not be downloaded ({error}); copy its files there, or pass --data-dir"
        ) from error


def _idx_splits(kind: str, places: Sequence[Path], data_dir: Path) -> dict[str, ArrayImages]:
    for place in places:
        if _idx_path(place, "train-images-idx3-ubyte"):
            return {split: _idx_images(place, prefix) for split, prefix in _IDX_FILES.items()}
    _fetch(kind, data_dir, data_dir)
    return {split: _idx_images(data_dir / kind / "raw", prefix) for split, prefix in _IDX_FILES.items()}


def _idx_images(place: Path, prefix: str) -> ArrayImages:
    images = read_idx(place, f"{prefix}-images-idx3-ubyte")
    labels = read_idx(place, f"{prefix}-labels-idx1-ubyte")
    if len(images) != len(labels):
        raise BadData(f"{place}: {len(images)} {prefix} images but {len(labels)} labels; fetch the files again")
    return ArrayImages(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def _idx_path(place: Path, name: str) -> Path | None:
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def read_idx(place: Path, name: str) -> NDArray[np.uint8]:
    """An IDX file of bytes, compressed or not: two zeros, 8 (bytes), the rank, its sizes, the values."""
    path = _idx_path(place, name)
    if path is None:
        raise BadData(f"no {name}[.gz] in {place}; fetch the data set again")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{rank}I", content, 4)
    except (OSError, EOFError, struct.error) as error:
        raise BadData(f"{path} is damaged ({error}); fetch it again") from error
    if (zero, kind) != (0, 8) or math.prod(shape) != len(content) - 4 - 4 * rank:
        raise BadData(f"{path} is damaged: not an IDX file of {' x '.join(map(str, shape))} bytes; fetch it again")
    # A copy, because torch wants memory it may write to.
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()
