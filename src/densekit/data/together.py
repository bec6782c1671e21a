"""All images of a data set as one, whatever splits they are in."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.data.decoding.decode import Source
from densekit.data.sets import ArrayImages, EncodedImages, Images, groups_of


@dataclass(frozen=True)
class SplitImages(EncodedImages):
    """The encoded images of several splits, one after the other."""

    parts: Mapping[str, EncodedImages]
    """By split."""
    part: NDArray[np.int64]
    """(N,): position of the split of each."""
    at: NDArray[np.int64]
    """(N,): position in its split."""
    labels: Tensor

    @property
    def grouped(self) -> Sequence[str] | None:
        """Of all; none where a split has none."""
        groups = [groups_of(images) for images in self.parts.values()]
        known = [group for group in groups if group is not None]
        if len(known) < len(groups):
            return None
        return [known[part][at] for part, at in zip(self.part, self.at, strict=True)]

    def name(self, sample: int) -> str:
        """SPLIT/NAME."""
        split, at = self.place(sample)
        return f"{split}/{self.parts[split].name(at)}"

    def path(self, sample: int) -> Path:
        """As its split has it."""
        split, at = self.place(sample)
        return self.parts[split].path(at)

    def encoded(self, sample: int) -> Source:
        """As its split has it."""
        split, at = self.place(sample)
        return self.parts[split].encoded(at)

    def fingerprint(self) -> str:
        """By those of the splits, and the choice among their images."""
        digest = hashlib.sha256("".join(images.fingerprint() for images in self.parts.values()).encode())
        for column in (self.part, self.at, self.labels.numpy()):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def stored_bytes(self) -> int:
        """Of all splits, whichever of their images are chosen."""
        return sum(images.stored_bytes() for images in self.parts.values())

    def place(self, sample: int) -> tuple[str, int]:
        """The split of an image, and its position there."""
        return list(self.parts)[self.part[sample]], int(self.at[sample])

    def _read_hashes(self) -> NDArray[np.uint64]:
        found = np.empty(len(self), np.uint64)
        for number, images in enumerate(self.parts.values()):
            mine = self.part == number
            found[mine] = images.content_hashes()[self.at[mine]]
        return found

    def _part(self, indices: NDArray[np.int64]) -> Self:
        labels = self.labels[torch.from_numpy(indices)]
        return replace(self, part=self.part[indices], at=self.at[indices], labels=labels)


def together(splits: Mapping[str, Images]) -> Images:
    """The images of all splits, in the order of the splits."""
    if len(splits) == 1:
        return next(iter(splits.values()))
    labels = torch.cat([images.labels for images in splits.values()])
    arrays = [images for images in splits.values() if isinstance(images, ArrayImages)]
    if len(arrays) == len(splits):
        return ArrayImages(torch.cat([images.pixels for images in arrays]), labels)
    parts = {name: images for name, images in splits.items() if isinstance(images, EncodedImages)}
    sizes = [len(images) for images in parts.values()]
    at = np.concatenate([np.arange(size) for size in sizes])
    return SplitImages(parts, np.repeat(np.arange(len(sizes)), sizes), at, labels)
