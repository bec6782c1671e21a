"""wds:PATTERN: images in tar files, as WebDataset names them, read in place by an index of their offsets.

A reader of streams shuffles within a window, and can begin only where a shard does. With an index any order, any share
and any point of an epoch is a read at a known place, as it is of separate files.

Shapes: N samples of one split. What is kept of them are arrays, about 30 bytes a sample, which workers share.
"""

import functools
import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from itertools import product
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.config import DataConfig
from densekit.data.decoding.decode import IMAGE_SUFFIXES, Source
from densekit.data.list_images import scan
from densekit.data.sets import QUICKLY_READ, DataSet, EncodedImages, SkipList
from densekit.data.sources.expected import Expected
from densekit.data.sources.shard_index import Index, Stamp, images_in, index_of, read_label, stamp_of
from densekit.data.sources.split_names import SPLITS
from densekit.errors import BadData, BadImage
from densekit.folders import expanded

CLASSES = "classes.txt"
_MOST_SHARDS = 1_000_000
_KEPT_OPEN = 64
_REMOTE = re.compile(r"(pipe:|[a-z0-9]+://)")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class ShardImages(EncodedImages):
    """Encoded images inside tar files."""

    shards: tuple[Path, ...]
    stamps: tuple[Stamp, ...]
    """Of the shards, as they were when they were indexed."""
    keys: NDArray[np.bytes_]
    """(N,): what identifies a sample in its shard."""
    shard: NDArray[np.int32]
    """(N,): which of the shards it is in."""
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    """(N,): where its bytes are."""
    labels: Tensor
    groups: NDArray[np.bytes_] | None = None
    """(N,)"""

    @property
    def grouped(self) -> Sequence[str] | None:
        """Made anew at each call: not kept as a million objects."""
        return None if self.groups is None else [group.decode() for group in self.groups]

    def name(self, sample: int) -> str:
        """SHARD/KEY."""
        return f"{self.shards[self.shard[sample]].name}/{self.keys[sample].decode()}"

    def path(self, sample: int) -> Path:
        """The shard and, as if that were a folder, the key."""
        return self.shards[self.shard[sample]] / self.keys[sample].decode()

    def encoded(self, sample: int) -> Source:
        """The image's bytes. Raises BadImage where the shard is gone, another one, or cannot be read."""
        number, size = self.shard[sample], int(self.size[sample])
        try:
            content = _opened(self.shards[number], self.stamps[number]).read(size, int(self.offset[sample]))
        except FileNotFoundError:
            raise BadImage("missing", f"{self.path(sample)}: its shard is gone; put it back") from None
        except OSError as error:
            raise BadImage(
                "unreadable", f"{self.path(sample)} cannot be read ({error.strerror}); check the shard and its disk"
            ) from error
        if len(content) < size:
            raise BadImage("truncated", f"{self.path(sample)} ends too early; copy its shard again")
        return content

    def fingerprint(self) -> str:
        """By keys, places and sizes, and up to 1 GB by contents."""
        digest = hashlib.sha256("\0".join(path.name for path in self.shards).encode())
        groups = () if self.groups is None else (self.groups,)
        for column in (self.keys, self.shard, self.offset, self.size, self.labels.numpy(), *groups):
            digest.update(np.ascontiguousarray(column).tobytes())
        if self.stored_bytes() <= QUICKLY_READ:
            digest.update(self.content_hashes().tobytes())
        return digest.hexdigest()

    def stored_bytes(self) -> int:
        """By the index."""
        return int(self.size.sum())

    def _read_hashes(self) -> NDArray[np.uint64]:
        # Kept with the index of each shard, too.
        found = np.empty(len(self), np.uint64)
        order = np.argsort(self.shard, kind="stable")
        bounds = np.searchsorted(self.shard[order], np.arange(len(self.shards) + 1))
        for path, first, last in zip(self.shards, bounds, bounds[1:], strict=False):
            at = order[first:last]
            if len(at):
                index = index_of(path)
                found[at] = index.hashes()[np.searchsorted(index.offset, self.offset[at])]
        return found

    def _part(self, indices: NDArray[np.int64]) -> Self:
        return replace(
            self,
            keys=self.keys[indices],
            shard=self.shard[indices],
            offset=self.offset[indices],
            size=self.size[indices],
            labels=self.labels[torch.from_numpy(indices)],
            groups=None if self.groups is None else self.groups[indices],
        )


class _OpenShard:
    """A descriptor, closed when nobody reads by it any more.

    It is read at a place, not from where somebody else has left it, so threads and forked processes may share it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self, size: int, offset: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.descriptor)


@functools.lru_cache(_KEPT_OPEN)
def _opened(path: Path, stamp: Stamp) -> _OpenShard:
    """Raises OSError, also where the file is no longer the one that was indexed: other images would be read."""
    shard = _OpenShard(os.open(path, os.O_RDONLY))
    if stamp_of(os.fstat(shard.descriptor)) != stamp:
        raise OSError(0, "its shard has been changed since the start; start again")
    return shard


def shards(pattern: str, config: DataConfig, *, expected: Expected | None = None) -> DataSet:
    """A folder of shards, or a pattern with *, ?, {000..123} and {a,b}. Raises BadData.

    A word of a shard's name, or its folder's whole name, says which split it is of; without one it is for training, and
    so is all that is of one split only, unless it is evaluated. Class names are the lines of classes.txt beside the
    shards; else the labels for training, or of all splits where none is for training. `expected`, for an evaluation:
    any split and any class are enough.
    """
    paths = _expanded(pattern)
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(_split_of(path), []).append(path)
    if len(by_split) == 1 and (expected is None or expected.is_own):
        by_split = {"train": paths}
    if "train" not in by_split and expected is None:
        raise BadData(f"wds:{pattern} has shards for {' and '.join(by_split)} only; add some for training, or name one")
    indices = {split: [index_of(path) for path in of_split] for split, of_split in by_split.items()}
    written = paths[0].parent / CLASSES
    named_by = indices["train"] if "train" in indices else [index for each in indices.values() for index in each]
    classes = _listed(written) if written.exists() else _found(named_by)
    if len(classes) < 2 and expected is None:
        raise BadData(f"wds:{pattern} has one class, {', '.join(classes)}; there is nothing to tell apart")
    splits = {split: _images(of_split, classes, listed=written.exists()) for split, of_split in indices.items()}
    if len({images.labels.ndim for images in splits.values()}) > 1:
        raise BadData(f"wds:{pattern} has one label an image in some splits, and lists in others; write all alike")
    if expected is None or expected.is_own:
        _refuse_divided(splits, pattern)
    return DataSet(f"wds:{pattern}", classes, splits, skipped=SkipList(config.max_bad))


def iter_images(pattern: str) -> list[tuple[str, Callable[[], bytes]]]:
    """("SHARD/FILE", what reads it) of each image in the shards, which need no labels.

    Raises BadData, and so does reading.
    """
    found: list[tuple[str, Callable[[], bytes]]] = []
    for path in _expanded(pattern):
        for name, offset, size in images_in(path):
            found.append((f"{path}/{name}", functools.partial(_read_at, path, stamp_of(path.stat()), size, offset)))
    if not found:
        raise BadData(f"no pictures in wds:{pattern}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def _read_at(path: Path, stamp: Stamp, size: int, offset: int) -> bytes:
    try:
        return _opened(path, stamp).read(size, offset)
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}; check the shard and its disk") from error


def is_remote(pattern: str) -> bool:
    """Whether a pattern names another machine's shards, or a command that fetches them."""
    return _REMOTE.match(pattern) is not None


def _expanded(pattern: str) -> list[Path]:
    if is_remote(pattern):
        raise BadData(
            f"wds:{pattern} is not on this machine, and densekit reads shards in place; copy or mount them here"
        )
    given = expanded(pattern)
    if given.is_dir():
        found = list(scan(given, suffixes=(".tar",)).images)
    else:
        found = []
        for each in [str(given)] if given.exists() else _braces(str(given)):
            matches = sorted(glob(each)) if has_magic(each) and not given.exists() else [each]
            if not Path(matches[0] if matches else each).exists() and not has_magic(each):
                raise BadData(f"wds:{pattern} names {each}, which does not exist; copy it here, or name the others")
            found += map(Path, matches)
    if not found:
        raise BadData(f"no shards: wds:{pattern} matches no .tar file; name a folder of them, or a pattern")
    return list(dict.fromkeys(found))


def _braces(pattern: str) -> list[str]:
    """`a{0..2}b` -> a0b, a1b, a2b; `{x,y}` -> x, y; more than one group is every combination. As bash does it."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices: list[Sequence[str]] = [_choices(group) for group in parts[1::2]]
    if math.prod(map(len, choices)) > _MOST_SHARDS:
        raise BadData(f"wds:{pattern} names more than {_MOST_SHARDS:,} shards; mend its braces")
    return [
        "".join(text for pair in zip(parts[::2], (*chosen, ""), strict=True) for text in pair)
        for chosen in product(*choices)
    ]


def _choices(group: str) -> Sequence[str]:
    numbers = _RANGE.fullmatch(group)
    if not numbers:
        return group.split(",") if "," in group else [f"{{{group}}}"]
    first, last = numbers.groups()
    padded = any(len(number) > 1 and number.startswith("0") for number in (first, last))
    width = max(len(first), len(last)) if padded else 0
    low, high = int(first), int(last)
    if abs(high - low) >= _MOST_SHARDS:
        raise BadData(f"{{{group}}} names more than {_MOST_SHARDS:,} shards; mend it")
    step = 1 if high >= low else -1
    return [str(i).zfill(width) for i in range(low, high + step, step)]


def _split_of(path: Path) -> str:
    words = [*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name.lower()]
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def _listed(written: Path) -> tuple[str, ...]:
    try:
        classes = tuple(written.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"cannot read {written}: {error}; it is a class name a line, in UTF-8") from error
    if len(set(classes)) < max(2, len(classes)):
        raise BadData(f"{written} needs two or more classes, a line each, none of them twice")
    return classes


def _found(indices: Sequence[Index]) -> tuple[str, ...]:
    """The labels' own names; numbers by size, not by spelling."""
    labels = {label for index in indices for label in np.unique(index.label).tolist()}
    names = {name for label in labels for part in read_label(label) for name in part}
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _images(indices: Sequence[Index], classes: tuple[str, ...], *, listed: bool) -> ShardImages:
    """Of one split."""
    label, group = (np.concatenate([getattr(index, column) for index in indices]) for column in ("label", "group"))
    shard = np.repeat(np.arange(len(indices), dtype=np.int32), [len(index.key) for index in indices])
    key = np.concatenate([index.key for index in indices])
    values, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    numbers = {name: i for i, name in enumerate(classes)}
    several = {value.startswith(b"\x1f") for value in values.tolist()}
    if len(several) > 1:
        raise BadData(
            f"{indices[0].path} and the rest have one label for some images, lists for others; write all alike"
        )
    table = torch.zeros(len(values), len(classes))
    for row, (value, sample) in enumerate(zip(values.tolist(), first, strict=True)):
        present, unknown = read_label(value)
        where = f"{indices[shard[sample]].path}/{key[sample].decode()}"
        table[row, [_number(name, numbers, where, listed=listed) for name in present]] = 1
        table[row, [_number(name, numbers, where, listed=listed) for name in unknown]] = torch.nan
    positions = torch.from_numpy(inverse.reshape(-1))
    return ShardImages(
        tuple(index.path for index in indices),
        tuple(index.stamp for index in indices),
        key,
        shard,
        np.concatenate([index.offset for index in indices]),
        np.concatenate([index.size for index in indices]),
        table[positions] if True in several else table.argmax(1)[positions],
        _grouped(group, indices, shard, key),
    )


def _grouped(
    group: NDArray[np.bytes_], indices: Sequence[Index], shard: NDArray[np.int32], key: NDArray[np.bytes_]
) -> NDArray[np.bytes_] | None:
    if not group.dtype.itemsize or not (without := group == b"").any():
        return group if group.dtype.itemsize else None
    if without.all():
        return None
    # They would be one group, and one split would have all of them.
    first = int(without.argmax())
    raise BadData(
        f"{indices[shard[first]].path} has no group for {key[first].decode()}, but others have one; give every image "
        "its group, or none"
    )


def _number(name: str, numbers: dict[str, int], where: str, *, listed: bool) -> int:
    """Labels are class names; beside a classes.txt numbers are its lines, from 0, as others read them."""
    number = int(name) if listed and name.isdecimal() else numbers.get(name, -1)
    if not 0 <= number < len(numbers):
        raise BadData(f"the label '{name[:100]}' of {where} is none of {len(numbers)} classes; mend it, or {CLASSES}")
    return number


def _refuse_divided(splits: dict[str, ShardImages], pattern: str) -> None:
    home: dict[bytes, str] = {}
    for split, images in splits.items():
        for group in () if images.groups is None else np.unique(images.groups).tolist():
            if home.setdefault(group, split) != split:
                raise BadData(
                    f"group {group.decode()} of wds:{pattern} is in {home[group]} and in {split}: what was learned of "
                    "it would be tested on it; keep each in one split"
                )
