"""Images in tar files, as WebDataset names them (KEY.jpg beside KEY.cls), read in place by an index of their offsets.

A reader of streams shuffles within a window, and can begin only where a shard does. With an index any order, any share
and any point of an epoch is a read at a known place, as it is of separate files.
"""

import hashlib
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from densekit.data.decode import IMAGE_SUFFIXES, suffix_of
from densekit.data.sets import ArrayImages, DataSet, Images
from densekit.errors import BadData

CLASSES = "classes.txt"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT = re.compile(r"(train|val|test)(?![a-zA-Z0-9])")


@dataclass(frozen=True)
class ShardImages:
    """Encoded images inside tar files."""

    shards: tuple[Path, ...]
    keys: NDArray[np.bytes_]
    """(N,): what identifies a sample in its shard."""
    shard: NDArray[np.int32]
    """(N,): which of the shards it is in."""
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    """(N,): where its bytes are."""
    labels: Tensor
    """(N,), int64."""

    def __len__(self) -> int:
        return len(self.keys)

    def names(self) -> list[str]:
        """SHARD/KEY."""
        shards = [path.name for path in self.shards]
        return [f"{shards[i]}/{key.decode()}" for i, key in zip(self.shard, self.keys, strict=True)]

    def path(self, sample: int) -> Path:
        """Of a sample for messages: its shard and, as if that were a folder, its key."""
        return self.shards[self.shard[sample]] / self.keys[sample].decode()

    def read(self, sample: int) -> bytes:
        """The encoded image."""
        with self.shards[self.shard[sample]].open("rb") as file:
            file.seek(self.offset[sample])
            return file.read(self.size[sample])

    def fingerprint(self) -> str:
        """Changes with any sample's key, size, place or label, and their order; does not read images."""
        digest = hashlib.sha256("\0".join(path.name for path in self.shards).encode())
        for column in (self.keys, self.shard, self.offset, self.size, self.labels.numpy()):
            digest.update(np.ascontiguousarray(column))
        return digest.hexdigest()

    def content_hashes(self) -> NDArray[np.uint64]:
        """(N,) 64-bit hashes of the keys: to read all images, only to divide them, would take hours of a large set."""
        return np.array(
            [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") for key in self.keys], dtype=np.uint64
        )

    def subset(self, indices: NDArray[np.int64]) -> "ShardImages":
        """The images at `indices`, in that order."""
        columns = (column[indices] for column in (self.keys, self.shard, self.offset, self.size))
        return ShardImages(self.shards, *columns, self.labels[torch.from_numpy(indices)])


def shards(pattern: str) -> DataSet:
    """A folder of shards, or a pattern with *, ? and {000..123} or {a,b}. Raises BadData.

    Shards whose names begin with train, val and test are these splits. Class names are the lines of classes.txt beside
    the shards; without it the labels' own.
    """
    paths = _expanded(pattern)
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        match = _SPLIT.match(path.name)
        by_split.setdefault(match[1] if match else "train", []).append(path)
    if "train" not in by_split:
        raise BadData(f"wds:{pattern} has shards for {', '.join(by_split)} only; it needs some for training")
    indices = {split: [_index(path) for path in paths] for split, paths in by_split.items()}
    written = paths[0].parent / CLASSES
    classes = _classes(written, (index["label"] for index in indices["train"]))
    numbers = {name: i for i, name in enumerate(classes)}
    splits = {
        split: _images(by_split[split], of_split, numbers, listed=written.exists())
        for split, of_split in indices.items()
    }
    return DataSet(f"wds:{pattern}", classes, splits)


def _expanded(pattern: str) -> list[Path]:
    folder = Path(pattern).expanduser()
    found = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    for each in () if folder.is_dir() else _braces(str(folder)):
        found += map(Path, sorted(glob(each)))
    if not found:
        raise BadData(f"no shards: wds:{pattern} matches no .tar file; name a folder of them, or a pattern")
    return list(dict.fromkeys(found))


def _braces(pattern: str) -> Iterator[str]:
    """`a{0..2}b` -> a0b, a1b, a2b; `{x,y}` -> x, y. As shells do; more than one group is every combination."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices: list[list[str]] = []
    for group in parts[1::2]:
        numbers = _RANGE.fullmatch(group)
        if numbers:
            first, last = numbers.groups()
            choices.append([str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)])
        else:
            choices.append(group.split(","))
    for chosen in product(*choices):
        yield "".join(text for pair in zip(parts[::2], (*chosen, ""), strict=True) for text in pair)


def _classes(written: Path, labels: Iterable[NDArray[np.bytes_]]) -> tuple[str, ...]:
    if written.exists():
        classes = tuple(written.read_text(encoding="utf-8").splitlines())
        if len(set(classes)) < max(2, len(classes)):
            raise BadData(f"{written} needs two or more classes, a line each, none of them twice")
        return classes
    found = sorted({label.decode() for column in labels for label in np.unique(column)})
    if all(label.isdecimal() for label in found):
        return tuple(str(i) for i in range(int(max(found, key=int)) + 1))
    return tuple(found)


def _images(paths: list[Path], indices: list[dict[str, Any]], numbers: dict[str, int], *, listed: bool) -> ShardImages:
    """Of one split. Labels are class names; beside a classes.txt numbers are its lines, from 0, as others read them."""
    labels = np.concatenate([index["label"] for index in indices])
    values, positions = np.unique(labels, return_inverse=True)
    known = []
    for value in (v.decode() for v in values):
        number = int(value) if listed and value.isdecimal() else numbers.get(value, -1)
        if not 0 <= number < len(numbers):
            raise BadData(f"the label {value!r} in {paths[0].parent} is none of its {len(numbers)} classes")
        known.append(number)
    return ShardImages(
        tuple(paths),
        np.concatenate([index["key"] for index in indices]),
        np.repeat(np.arange(len(paths), dtype=np.int32), [len(index["key"]) for index in indices]),
        np.concatenate([index["offset"] for index in indices]),
        np.concatenate([index["size"] for index in indices]),
        torch.from_numpy(np.array(known, dtype=np.int64)[positions.reshape(-1)]),
    )


def _index(path: Path) -> dict[str, Any]:
    """Columns key, label, offset and size of a shard's samples; made once, and kept in the user's cache."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error
    name = hashlib.sha256(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:32]
    kept = platformdirs.user_cache_path("densekit") / "shards" / f"{name}.npz"
    try:
        with np.load(kept, allow_pickle=False) as columns:
            return {column: columns[column] for column in ("key", "label", "offset", "size")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or damaged
    rows = list(_samples(path, status.st_size))
    if not rows:
        raise BadData(f"{path} holds no samples; remove it")
    key, label, offset, size = zip(*rows, strict=True)
    columns = {
        "key": np.array(key, dtype=np.bytes_),
        "label": np.array(label, dtype=np.bytes_),
        "offset": np.array(offset, dtype=np.int64),
        "size": np.array(size, dtype=np.int64),
    }
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{name}.{np.random.default_rng().integers(2**32)}.npz")
        np.savez(temporary, **columns)
        temporary.replace(kept)
    except OSError:
        pass  # no cache: it will be made again
    return columns


def _samples(path: Path, length: int) -> Iterator[tuple[bytes, bytes, int, int]]:
    """(key, label, offset, size) of each sample. Files of a sample follow each other, as WebDataset wants it."""
    try:
        with tarfile.open(path, "r:") as tar:
            key, label, image = "", None, None
            for member in tar:
                tar.members = []  # it would keep them all
                if not member.isreg() or Path(member.name).name.startswith("."):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                stem = f"{folder}/{stem}" if folder else stem
                if stem != key and key:
                    yield _sample(path, key, label, image)
                    label = image = None
                key = stem
                if member.offset_data + member.size > length:
                    raise BadData(f"{path} ends within {member.name}; copy it again")
                if f".{ending.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES:
                    if image is not None:
                        raise BadData(f"{path} has two images for {key}; densekit takes one a sample")
                    image = member.offset_data, member.size
                elif ending in ("cls", "json"):
                    content = tar.extractfile(member)
                    assert content is not None
                    label = _label(content.read(1 << 20), ending, path, key) or label
            if key:
                yield _sample(path, key, label, image)
    except (tarfile.TarError, EOFError) as error:
        raise BadData(f"{path} is no tar file that can be read in place ({error}); unpack a compressed one") from error
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error


def _label(content: bytes, ending: str, path: Path, key: str) -> bytes | None:
    try:
        text = content.decode().strip()
        found = text if ending == "cls" else json.loads(text)
    except ValueError as error:
        raise BadData(f"{path}: the label of {key} is damaged ({error}); mend {key}.{ending}") from error
    if isinstance(found, str):
        return found.encode()
    fields = found if isinstance(found, dict) else {}
    value = next((fields[name] for name in ("label", "cls", "class") if name in fields), None)
    return str(value).encode() if isinstance(value, str | int) else None


def _sample(path: Path, key: str, label: bytes | None, image: tuple[int, int] | None) -> tuple[bytes, bytes, int, int]:
    if image is None:
        raise BadData(f"{path} has no image for {key}; densekit reads {', '.join(sorted(IMAGE_SUFFIXES))}")
    if not label:
        raise BadData(f"{path} has no label for {key}; it needs {key}.cls, or a label in {key}.json")
    return key.encode(errors="backslashreplace"), label, *image


def write_shards(
    images: Images | ShardImages, folder: Path, split: str, shard_bytes: int
) -> Iterator[tuple[Path, int]]:
    """Writes a split as SPLIT-000000.tar, ... of about so many bytes each; yields (path, samples) of each.

    In an order that mixes classes, and is the same each time; so are the files. Encoded images are copied as they are,
    pixels become PNG. Raises OSError where the disk is full, and leaves no shard that is not whole.
    """
    order = np.random.default_rng(0).permutation(len(images))
    position = number = 0
    while position < len(order):
        path = folder / f"{split}-{number:06}.tar"
        temporary = path.with_suffix(".tar.part")
        begun = position
        try:
            with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
                while position < len(order) and (position == begun or tar.offset < shard_bytes):
                    sample = int(order[position])
                    content, suffix = _encoded(images, sample)
                    label = b"%d" % int(images.labels[sample])
                    for ending, data in ((suffix, content), (".cls", label)):
                        member = tarfile.TarInfo(f"{position:09}{ending}")  # owner, mode and time are the same for all
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
                    tar.members = []  # it would keep them all
                    position += 1
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)
        yield path, position - begun
        number += 1


def _encoded(images: Images, sample: int) -> tuple[bytes, str]:
    """An image file's bytes, and its suffix."""
    if isinstance(images, ArrayImages):
        stream = io.BytesIO()
        to_pil_image(images.pixels[sample]).save(stream, "PNG")
        return stream.getvalue(), ".png"
    content = images.read(sample) if isinstance(images, ShardImages) else images.paths[sample].read_bytes()
    return content, suffix_of(content)
