"""One look at every image of a data set: what finds faults in it. About 1.2 kB an image, whatever the image's size.

Shapes: N images of all splits, one split after the other; h x w pixels of a thumbnail.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from densekit.config import DataConfig
from densekit.data.decoding.decode import format_of_suffix
from densekit.data.sets import ArrayImages, DataSet, EncodedImages, FileImages
from densekit.errors import BadImage

SIDE = 32
"""Pixels of a thumbnail's side: detail enough to tell pictures apart, and little enough to outlive recompression."""

_COLOUR_SIDE = 4
_AT_ONCE = 512  # images; results wait for the slowest of them
_LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32)  # Rec. 601
_BLUE = torch.tensor([-0.168736, -0.331264, 0.5], dtype=torch.float32)
_RED = torch.tensor([0.5, -0.418688, -0.081312], dtype=torch.float32)


@dataclass(frozen=True)
class ImageScan:
    """Row i of everything is image i."""

    classes: tuple[str, ...]
    splits: tuple[str, ...]
    split: NDArray[np.int64]
    """(N,): position in `splits`."""
    sample: NDArray[np.int64]
    """(N,): position in its split."""
    labels: NDArray[np.int64] | NDArray[np.float32]
    """(N,), or (N, classes) with 1, 0 and NaN where not known, as a data set has them."""
    names: list[str]
    sizes: NDArray[np.int64]
    """(N, 2): width and height; 0 where it could not be read."""
    digests: NDArray[np.bytes_]
    """(N,): equal for equal pixels, whatever file they come from; empty where there are none."""
    thumbs: NDArray[np.uint8]
    """(N, h, w): the whole picture in grey."""
    chroma: NDArray[np.int8]
    """(N, 2, 4, 4): its colours, Cb and Cr; 0 is grey."""
    formats: list[str]
    modes: list[str]
    """As the file has them; empty for arrays."""
    promised: list[str | None]
    """The format of the file's suffix."""
    notices: dict[int, tuple[str, ...]]
    bad: dict[int, BadImage]

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, row: int) -> str:
        """An image's class, or its classes."""
        if self.labels.ndim == 1:
            return self.classes[self.labels[row]]
        return ", ".join(name for name, value in zip(self.classes, self.labels[row], strict=True) if value == 1)

    def disagree(self, rows: NDArray[np.int64] | list[int] | tuple[int, ...]) -> bool:
        """Whether these images, if they were one, would have to be of a class and not of it."""
        labels = self.labels[np.asarray(rows)]
        if labels.ndim == 1:
            return len(set(labels.tolist())) > 1
        return bool(((labels == 1).any(0) & (labels == 0).any(0)).any())

    def counts(self) -> NDArray[np.int64]:
        """(splits, classes) readable images of each class."""
        rows, counts = self.readable, np.zeros((len(self.splits), len(self.classes)), np.int64)
        if self.labels.ndim == 1:
            np.add.at(counts, (self.split[rows], self.labels[rows].astype(np.int64)), 1)
        else:
            np.add.at(counts, self.split[rows], self.labels[rows] == 1)
        return counts

    def images(self) -> dict[str, int]:
        """Readable images of each split, however many classes they are of."""
        counts = np.bincount(self.split[self.readable], minlength=len(self.splits))
        return dict(zip(self.splits, counts.tolist(), strict=True))

    def in_all(self, split: int) -> list[str]:
        """Classes of which all readable images of a split are, as far as that is known; of several labels only."""
        labels = self.labels[self.readable[self.split[self.readable] == split]]
        if labels.ndim == 1:
            return []
        constant = (labels == 1).any(0) & ~(labels == 0).any(0)
        return [name for name, always in zip(self.classes, constant, strict=True) if always]

    @property
    def readable(self) -> NDArray[np.int64]:
        """Rows of images that could be decoded."""
        return np.flatnonzero(self.digests != b"")


@dataclass(frozen=True)
class _Look:
    size: tuple[int, int]
    digest: bytes
    thumb: NDArray[np.uint8]
    chroma: NDArray[np.int8]
    format: str = ""
    mode: str = ""
    notices: tuple[str, ...] = ()


def scan_images(data: DataSet, config: DataConfig, advance: Callable[[int], None] = lambda _: None) -> ImageScan:
    """Decodes every image once, on all cores, a few at a time. `advance` hears how many more are done."""
    total = sum(map(len, data.splits.values()))
    shape = _thumb_shape(data)
    found = ImageScan(
        classes=data.classes,
        splits=tuple(data.splits),
        split=np.repeat(np.arange(len(data.splits)), [len(images) for images in data.splits.values()]),
        sample=np.concatenate([np.arange(len(images)) for images in data.splits.values()]),
        labels=np.concatenate([images.labels.numpy() for images in data.splits.values()]),
        names=[name for images in data.splits.values() for name in images.names()],
        sizes=np.zeros((total, 2), np.int64),
        digests=np.zeros(total, "S16"),
        thumbs=np.zeros((total, *shape), np.uint8),
        chroma=np.zeros((total, 2, _COLOUR_SIDE, _COLOUR_SIDE), np.int8),
        formats=[""] * total,
        modes=[""] * total,
        promised=[None] * total,
        notices={},
        bad={},
    )
    row = 0
    for images in data.splits.values():
        if isinstance(images, FileImages):
            found.promised[row : row + len(images)] = [format_of_suffix(path) for path in images.paths]
        looks = _arrays(images, shape) if isinstance(images, ArrayImages) else _files(images, config)
        for look in looks:
            _note(found, row, look)
            advance(1)
            row += 1
    return found


def _note(found: ImageScan, row: int, look: "_Look | BadImage") -> None:
    if isinstance(look, BadImage):
        found.bad[row] = look
        return
    found.sizes[row] = look.size
    found.digests[row] = look.digest
    found.thumbs[row] = look.thumb
    found.chroma[row] = look.chroma
    found.formats[row] = look.format
    found.modes[row] = look.mode
    if look.notices:
        found.notices[row] = look.notices


def _thumb_shape(data: DataSet) -> tuple[int, int]:
    images = next(iter(data.splits.values()))
    if isinstance(images, ArrayImages):  # small ones as they are, to the pixel
        height, width = images.pixels.shape[-2:]
        return min(SIDE, height), min(SIDE, width)
    return SIDE, SIDE


def _files(images: EncodedImages, config: DataConfig) -> Iterator[_Look | BadImage]:
    def look(sample: int) -> _Look | BadImage:
        return _look(images, sample, config)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Pillow decodes without the interpreter's lock
        for first in range(0, len(images), _AT_ONCE):
            yield from threads.map(look, range(first, min(first + _AT_ONCE, len(images))))


def _look(images: EncodedImages, sample: int, config: DataConfig) -> _Look | BadImage:
    try:
        decoded = images.decoded(
            sample, channels=config.channels or 3, max_pixels=config.max_pixels, window=config.window
        )
    except BadImage as error:
        return error
    image = decoded.image
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    coarse = image.convert("RGB").resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX).convert("YCbCr")
    colours = np.asarray(coarse, dtype=np.int16)[..., 1:] - 128
    return _Look(
        size=image.size,
        digest=_never_empty(digest.digest()),
        # Not by boxes, whose edges fall elsewhere in a picture of another size.
        thumb=np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)),
        chroma=colours.transpose(2, 0, 1).astype(np.int8),
        format=decoded.format,
        mode=decoded.mode,
        notices=decoded.notices,
    )


def _arrays(images: ArrayImages, shape: tuple[int, int]) -> Iterator[_Look]:
    pool = torch.nn.functional.adaptive_avg_pool2d
    height, width = images.pixels.shape[-2:]
    head = repr(images.pixels.shape[1:]).encode()
    for pixels in torch.split(images.pixels, _AT_ONCE):
        x = pixels.float()
        grey, colours = x[:, :1], torch.zeros(len(x), 2, _COLOUR_SIDE, _COLOUR_SIDE)
        if x.shape[1] >= 3:
            grey, blue, red = (torch.einsum("nchw,c->nhw", x[:, :3], by)[:, None] for by in (_LUMA, _BLUE, _RED))
            colours = pool(torch.cat((blue, red), 1), _COLOUR_SIDE)
        small = torch.nn.functional.interpolate(grey, shape, mode="bilinear", antialias=True)
        thumbs = small[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
        chroma = colours.round().clamp(-127, 127).to(torch.int8).numpy()
        for i, content in enumerate(pixels.contiguous().numpy()):
            digest = hashlib.blake2b(head, digest_size=16)
            digest.update(content.data)
            yield _Look((width, height), _never_empty(digest.digest()), thumbs[i], chroma[i])


def _never_empty(digest: bytes) -> bytes:
    """NumPy drops zeros at the end of bytes; the first one must not be among them."""
    return bytes([digest[0] | 1]) + digest[1:]
