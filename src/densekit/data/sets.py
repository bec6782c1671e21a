"""What a data source delivers: named splits of images, in memory or as files."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.errors import BadData, BadImage

_QUICKLY_READ = 1_000_000_000  # bytes


@dataclass(frozen=True)
class ArrayImages:
    """Images of one size, held in memory."""

    pixels: Tensor
    """(N, C, H, W), uint8."""
    labels: Tensor
    """(N,), int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def names(self) -> list[str]:
        """What identifies an image to a person: its position."""
        return [str(i) for i in range(len(self))]

    def fingerprint(self) -> str:
        """Changes with any pixel, label or their order."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def content_hashes(self) -> NDArray[np.uint64]:
        """(N,) 64-bit hashes of the pixels."""
        rows = self.pixels.numpy().reshape(len(self), -1)
        return np.array([_hash(row.tobytes()) for row in rows], dtype=np.uint64)

    def subset(self, indices: NDArray[np.int64]) -> "ArrayImages":
        """The images at `indices`, in that order."""
        chosen = torch.from_numpy(indices)
        return ArrayImages(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class FileImages:
    """Images in files, decoded when they are needed."""

    paths: tuple[Path, ...]
    labels: Tensor
    """(N,), int64."""
    root: Path

    def __len__(self) -> int:
        return len(self.paths)

    def names(self) -> list[str]:
        """Paths from the data set's folder."""
        return [path.relative_to(self.root).as_posix() for path in self.paths]

    def fingerprint(self) -> str:
        """Changes with any file's name, size or label, and their order; up to 1 GB in all, with any byte of theirs.

        More would take long to read each time; an image that is changed but as long as before is rare.
        """
        digest = hashlib.sha256()
        sizes = [path.stat().st_size for path in self.paths]
        for name, size, label in zip(self.names(), sizes, self.labels.tolist(), strict=True):
            digest.update(f"{name}\0{size}\0{label}\n".encode())
        if sum(sizes) <= _QUICKLY_READ:
            digest.update(self.content_hashes().tobytes())
        return digest.hexdigest()

    def content_hashes(self) -> NDArray[np.uint64]:
        """(N,) 64-bit hashes of the files' bytes; reads every file, once for this set and its subsets."""
        return self._hashes

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        return np.array([_hash(path.read_bytes()) for path in self.paths], dtype=np.uint64)

    def subset(self, indices: NDArray[np.int64]) -> "FileImages":
        """The images at `indices`, in that order."""
        part = FileImages(tuple(self.paths[i] for i in indices), self.labels[torch.from_numpy(indices)], self.root)
        if "_hashes" in vars(self):
            vars(part)["_hashes"] = self._hashes[indices]
        return part


Images = ArrayImages | FileImages


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


@dataclass(frozen=True)
class DataSet:
    """A data source's classes and splits; `train`, and where it brings them `val` and `test`."""

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
    return torch.bincount(images.labels, minlength=len(classes)).tolist()
