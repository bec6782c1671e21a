"""What a data source delivers: named splits of images, in memory or as files have them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.data.decoding.decode import Decoded, Part, Source, decode
from densekit.data.decoding.dicom import Window
from densekit.data.list_images import Unused, summary
from densekit.errors import BadData, BadImage
from densekit.formatting import printable

# Beyond this many files a look at every header costs minutes; bad ones are then found when they are decoded.
CHECKED_FILES = 200_000
QUICKLY_READ = 1_000_000_000
"""Bytes of which all are part of a fingerprint; more would take long to read each time."""


@dataclass(frozen=True)
class ArrayImages:
    """Images of one size, held in memory."""

    pixels: Tensor
    """(N, C, H, W), uint8."""
    labels: Tensor
    """(N,), int64; or (N, classes), float32: 1, 0, or NaN where it is not known (multi-label)."""

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, sample: int) -> str:
        """What identifies an image to a person: its position."""
        return str(sample)

    def names(self) -> list[str]:
        """Of all."""
        return [self.name(i) for i in range(len(self))]

    def fingerprint(self) -> str:
        """Changes with any pixel, label or their order."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def content_hashes(self) -> NDArray[np.uint64]:
        """(N,) 64-bit hashes of the pixels."""
        rows = self.pixels.numpy().reshape(len(self), -1)
        return hashes(row.tobytes() for row in rows)

    def subset(self, indices: NDArray[np.int64]) -> "ArrayImages":
        """The images at `indices`, in that order."""
        chosen = torch.from_numpy(indices)
        return ArrayImages(self.pixels[chosen], self.labels[chosen])


class EncodedImages(ABC):
    """Images as files have them, wherever those are; decoded when they are needed.

    Workers that decode get one of these, so what it holds of a sample are numbers in arrays where samples are many.
    """

    labels: Tensor
    """As those of `ArrayImages`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def grouped(self) -> Sequence[str] | None:
        """(N,): what each belongs to, such as a patient, and a split never divides; none where there are none."""

    @abstractmethod
    def name(self, sample: int) -> str:
        """What identifies an image to a person, in lists of this data set."""

    @abstractmethod
    def path(self, sample: int) -> Path:
        """Where an image is, for messages; not always a file of its own."""

    @abstractmethod
    def encoded(self, sample: int) -> Source:
        """What is decoded. Raises BadImage for what cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes with any image's name, size, label or group, and their order; up to 1 GB in all, with any byte.

        Of more, an image that is changed but as long as before is not noticed; that is rare.
        """

    @abstractmethod
    def stored_bytes(self) -> int:
        """Of all encoded images together."""

    @abstractmethod
    def _read_hashes(self) -> NDArray[np.uint64]:
        """What `content_hashes` keeps."""

    @abstractmethod
    def _part(self, indices: NDArray[np.int64]) -> Self:
        """What `subset` returns, but for what is kept."""

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        return self._read_hashes()

    def content_hashes(self) -> NDArray[np.uint64]:
        """(N,) 64-bit hashes of the encoded images; reads every one, once for this set and its subsets."""
        return self._hashes

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """The images at `indices`, in that order."""
        part = self._part(indices)
        if "_hashes" in vars(self):
            vars(part)["_hashes"] = self._hashes[indices]
        return part

    def names(self) -> list[str]:
        """Of all: many objects, where samples are many."""
        return [self.name(i) for i in range(len(self))]

    def decoded(
        self, sample: int, *, channels: int, max_pixels: int, window: Window | None = None, part: Part | None = None
    ) -> Decoded:
        """By `decode`, whose errors name the image as `path` does. Raises BadImage."""
        source, name = self.encoded(sample), str(self.path(sample))
        return decode(source, channels=channels, max_pixels=max_pixels, window=window, part=part, name=name)


@dataclass(frozen=True)
class FileImages(EncodedImages):
    """Images in files of their own."""

    paths: tuple[Path, ...]
    labels: Tensor
    """As those of `ArrayImages`."""
    root: Path
    groups: tuple[str, ...] | None = None

    @property
    def grouped(self) -> Sequence[str] | None:
        """As given."""
        return self.groups

    def name(self, sample: int) -> str:
        """The path from the data set's folder, printable; a whole one of a file that is elsewhere."""
        return printable(self._relative(sample))

    def path(self, sample: int) -> Path:
        """The file."""
        return self.paths[sample]

    def encoded(self, sample: int) -> Source:
        """The file, which `decode` opens."""
        return self.paths[sample]

    def fingerprint(self) -> str:
        """By names and sizes, and up to 1 GB by contents."""
        digest = hashlib.sha256()
        sizes = self._sizes
        for sample, (size, label) in enumerate(zip(sizes, self.labels.tolist(), strict=True)):
            digest.update(f"{self._relative(sample)}\0{size}\0{label}\n".encode(errors="surrogateescape"))
        for group in self.groups or ():
            digest.update(f"{group}\n".encode())
        if sum(sizes) <= QUICKLY_READ:
            digest.update(self.content_hashes().tobytes())
        return digest.hexdigest()

    def stored_bytes(self) -> int:
        """By the file system."""
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        with _read_or_bad():
            return [path.stat().st_size for path in self.paths]

    def _relative(self, sample: int) -> str:
        path = self.paths[sample]
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()

    def _read_hashes(self) -> NDArray[np.uint64]:
        return hashes(map(bytes_of, self.paths))

    def _part(self, indices: NDArray[np.int64]) -> Self:
        groups = None if self.groups is None else tuple(self.groups[i] for i in indices)
        paths = tuple(self.paths[i] for i in indices)
        return replace(self, paths=paths, labels=self.labels[torch.from_numpy(indices)], groups=groups)


Images = ArrayImages | EncodedImages


def groups_of(images: Images) -> Sequence[str] | None:
    """The group of each; none where there are none."""
    return images.grouped if isinstance(images, EncodedImages) else None


def relabelled(images: Images, labels: Tensor) -> Images:
    """The same images with other labels; what was read of them is kept."""
    changed: Images = replace(images, labels=labels)  # type: ignore[type-var]  # all of them are dataclasses
    if "_hashes" in vars(images):
        vars(changed)["_hashes"] = vars(images)["_hashes"]
    return changed


def kept_hashes(images: Images) -> NDArray[np.uint64] | None:
    """`content_hashes` where they cost no reading: of images in memory, and of files that were hashed before."""
    return images.content_hashes() if isinstance(images, ArrayImages) else vars(images).get("_hashes")


def bytes_of(path: Path) -> bytes:
    """A file's. Raises BadImage: it was there when the data were loaded, and may have gone since."""
    with _read_or_bad():
        return path.read_bytes()


@contextmanager
def _read_or_bad() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadImage(
            "unreadable", f"{error.filename} cannot be read ({error.strerror}); put it back, or check the disk"
        ) from error


def hashes(contents: Iterable[bytes]) -> NDArray[np.uint64]:
    """(N,), 64 bits each."""
    digests = (hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)


@dataclass(frozen=True)
class DataSet:
    """A data source's classes and splits; `train`, and where it brings them `val` and `test`; to evaluate, any."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Images]
    mirror_safe: bool = True
    """Whether a left-right mirror keeps the class: not for digits."""
    background: Literal["dark", "light"] | None = None
    mean: tuple[float, ...] | None = None
    """Published statistics, in units where a pixel is 0 to 1; none: measured on the training images."""
    std: tuple[float, ...] | None = None
    skipped: "SkipList" = field(default_factory=lambda: SkipList(0))
    columns: str = ""
    """Of a table, which of its columns are what; for people."""
    unused: tuple[Unused, ...] = ()
    """Of a folder, the pictures in it that are in no split."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the source was read."""
    division: tuple[str, ...] = ()
    """Classes that splits made by densekit lack, a line for each split."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of any number of the classes, not of exactly one."""
        return next(iter(self.splits.values())).labels.ndim == 2

    def remarks(self) -> list[str]:
        """What is to be told before the data are used: what is not used, and the notes."""
        unused = summary(self.unused)
        return [*([unused] if unused else []), *self.notes, *self.division]

    def with_splits(self, splits: Mapping[str, Images]) -> "DataSet":
        """The same data, divided otherwise."""
        return replace(self, splits=dict(splits))


class SkipList:
    """Files that could not be used, within a budget."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.files: dict[Path, BadImage] = {}

    def add_all(self, failures: Iterable[tuple[Path, BadImage]]) -> None:
        """Records files, each once. Raises BadData when there are more than the budget allows."""
        for path, error in failures:
            self.add(path, error)

    def rows(self) -> list[dict[str, str]]:
        """By path: whatever the order in which they were met, or by which process."""
        return [
            {"path": str(path), "code": error.code, "message": str(error)} for path, error in sorted(self.files.items())
        ]

    def restore(self, rows: Iterable[Mapping[str, str]]) -> None:
        """What `rows` gave."""
        self.files |= {Path(row["path"]): BadImage(row["code"], row["message"]) for row in rows}

    def add(self, path: Path, error: BadImage) -> None:
        """Records a file once. Raises BadData when there are more than the budget allows."""
        self.files[path] = error
        if len(self.files) > self.budget:
            allowed = f"more than data.max_bad={self.budget} bad files" if self.budget else "an unreadable image"
            raise BadData(
                f"{allowed}: {error}; mend or remove it, or skip such files with --set data.max_bad={self.budget + 10}"
            )


def class_counts(images: Images, classes: Sequence[str]) -> list[int]:
    """How many images each class has."""
    if images.labels.ndim == 2:
        return (images.labels == 1).sum(0).tolist()
    return torch.bincount(images.labels, minlength=len(classes)).tolist()


def check_learnable(data: DataSet) -> None:
    """Raises BadData where no training image is, or none is not, of some class."""
    train = data.splits["train"]
    counts = np.array(class_counts(train, data.classes))
    known = np.array((~train.labels.isnan()).sum(0).tolist()) if data.multi_label else len(train)
    for words, lacks in (("is", counts == 0), ("is not", counts == known)):
        names = [name for name, lack in zip(data.classes, lacks, strict=True) if lack]
        if names:
            raise BadData(
                f"no training image of {data.name} {words} {', '.join(names[:5])}, so that cannot be learned; "
                "add some, or leave it out of the labels"
            )


def label_names(labels: Tensor, classes: Sequence[str], separator: str = "|") -> list[str]:
    """(N,) or (N, classes) -> for each image its class, or its classes with `separator` between them."""
    if labels.ndim == 1:
        return [classes[label] for label in labels.tolist()]
    return [
        separator.join(name for name, value in zip(classes, row, strict=True) if value == 1) for row in labels.tolist()
    ]
