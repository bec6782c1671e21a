"""A tar file -> where its samples are and what they are labelled; made once, and kept in the user's cache.

Files of a sample follow each other and differ in their suffix, as WebDataset wants it: KEY.jpg, and KEY.cls with a
class's name or number, or KEY.json with "label", a name, a number or a list of them, and perhaps "unknown" and "group".
"""

import hashlib
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from densekit.data.decoding.decode import IMAGE_SUFFIXES
from densekit.data.list_images import is_litter
from densekit.data.sets import hashes
from densekit.errors import BadData
from densekit.folders import cache_folder

Stamp = tuple[int, int]
"""Size and time of change, in nanoseconds: other ones are another file."""

_SEVERAL, _UNKNOWN = "\x1f", "\x1e"  # no label that was stripped of spaces begins with them
_LONGEST = 1000  # bytes of a key, label or group: columns are as wide as their widest
_FRESH = 2_000_000_000  # nanoseconds in which a file may change again without its time's telling
_BLOCK = 512


@dataclass(frozen=True)
class Index:
    """Row i of each column is sample i of the shard."""

    path: Path
    stamp: Stamp
    key: NDArray[np.bytes_]
    label: NDArray[np.bytes_]
    """As `read_label` reads it."""
    group: NDArray[np.bytes_]
    """Empty where there is none."""
    offset: NDArray[np.int64]
    """Ascending."""
    size: NDArray[np.int64]

    def hashes(self) -> NDArray[np.uint64]:
        """Of the images' bytes; reads them all, once for as long as the shard is the same."""
        kept = _kept(self.path, self.stamp, "npy")
        with suppress(OSError, ValueError, EOFError):
            with kept.open("rb") as file:
                found: NDArray[np.uint64] = np.load(file, allow_pickle=False)
            if found.shape == self.offset.shape and found.dtype == np.uint64:
                return found
        try:
            with self.path.open("rb") as file:
                found = hashes(
                    _read(file, *place) for place in zip(self.offset.tolist(), self.size.tolist(), strict=True)
                )
        except OSError as error:
            raise BadData(f"cannot read {self.path}: {error.strerror}; check its disk") from error
        _keep(kept, self.stamp, lambda file: np.save(file, found))
        return found


_COLUMNS = tuple(field.name for field in fields(Index))[2:]


def index_of(path: Path) -> Index:
    """Raises BadData for a file that is no whole tar of labelled images."""
    try:
        stamp = stamp_of(path.stat())
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}; check the path") from error
    kept = _kept(path, stamp, "npz")
    try:
        # Opened here: of a damaged file numpy would leave it open.
        with kept.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            found = Index(path, stamp, **{name: columns[name] for name in _COLUMNS})
        if len({len(getattr(found, name)) for name in _COLUMNS}) == 1:
            return found
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        pass  # not there yet, or damaged
    rows = list(_samples(path, stamp[0]))
    if not rows:
        raise BadData(f"{path} holds no samples; remove it")
    kinds = (np.bytes_, np.bytes_, np.bytes_, np.int64, np.int64)
    made: dict[str, Any] = {
        name: np.array(column, dtype=kind)
        for name, kind, column in zip(_COLUMNS, kinds, zip(*rows, strict=True), strict=True)
    }
    _keep(kept, stamp, lambda file: np.savez(file, **made))
    return Index(path, stamp, **made)


def images_in(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of each image of a tar, whether it is labelled or not. Raises BadData as `index_of` does."""
    try:
        length = path.stat().st_size
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}; check the path") from error
    for member, _ in _members(path, length):
        if f".{member.name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES:
            yield member.name.encode(errors="backslashreplace").decode(), member.offset_data, member.size


def stamp_of(status: os.stat_result) -> Stamp:
    """Of a file."""
    return status.st_size, status.st_mtime_ns


def label_of(present: list[str], unknown: list[str]) -> str:
    """What `read_label` reads, of an image that is of several classes, or of none."""
    return _SEVERAL + _SEVERAL.join(present) + (_UNKNOWN + _SEVERAL.join(unknown) if unknown else "")


def read_label(label: bytes) -> tuple[list[str], list[str]]:
    """Classes that an image is of, and, of several labels, those of which that is not known."""
    text = label.decode()
    if not text.startswith(_SEVERAL):
        return [text], []
    present, _, unknown = text[1:].partition(_UNKNOWN)
    return [name for name in present.split(_SEVERAL) if name], [name for name in unknown.split(_SEVERAL) if name]


def _kept(path: Path, stamp: Stamp, suffix: str) -> Path:
    name = hashlib.sha256(f"{path.resolve()}\0{stamp}".encode(errors="surrogateescape")).hexdigest()[:32]
    return cache_folder() / "shards" / f"{name}.{suffix}"


def _keep(kept: Path, stamp: Stamp, save: Any) -> None:
    if time.time_ns() - stamp[1] < _FRESH:
        return
    temporary = kept.with_name(f"{kept.name}.{os.getpid()}")  # ranks may make it at the same time
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            save(file)
        temporary.replace(kept)
    except OSError:  # no cache: it will be made again
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read(file: IO[bytes], offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _samples(path: Path, length: int) -> Iterator[tuple[bytes, bytes, bytes, int, int]]:
    """The rows of an index."""
    sample: _Sample | None = None
    for member, file in _members(path, length):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample.row()
            sample = _Sample(path, key)
        sample.take(ending.lower(), member, file)
    if sample is not None:
        yield sample.row()


def _members(path: Path, length: int) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Files of a tar that is whole to its end, which tarfile itself does not ask for."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            at = -1
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not at < member.offset_data <= length - member.size or member.size < 0:
                    raise BadData(f"{path} ends within {member.name[:100]}, or is damaged there; copy it again")
                at = member.offset_data
                if member.isreg() and not any(map(is_litter, PurePosixPath(member.name).parts)):
                    yield member, file
            _check_end(path, file, tar.offset)
    except BadData:
        raise
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or error}; check it") from error
    except Exception as error:  # hostile headers make tarfile raise nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadData(f"{path} is no tar file that can be read in place ({reason}); unpack a compressed one") from error


def _check_end(path: Path, file: IO[bytes], offset: int) -> None:
    """Two empty blocks end a tar. tarfile takes a damaged header, or the end of the file, for as good an end."""
    file.seek(offset)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise BadData(f"{path} is damaged, or ends too early, at byte {offset}; copy it again")
    while rest := file.read(1 << 20):
        if rest.count(0) < len(rest):
            raise BadData(f"{path} goes on behind its end, as tars do that were put together; write one tar of them")


class _Sample:
    """What was found of one key."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.place: tuple[int, int] | None = None
        self.cls: str | None = None
        self.json: str | None = None
        self.group = ""

    def take(self, ending: str, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            if self.place is not None:
                raise BadData(f"{self.path} has two images for {self.key}; densekit takes one a sample")
            self.place = member.offset_data, member.size
        elif ending in ("cls", "json"):
            if member.size > 1 << 20:
                raise BadData(
                    f"{self.path}: the label of {self.key} has {member.size:,} bytes; mend {self.key}.{ending}"
                )
            try:
                text = _read(file, member.offset_data, member.size).decode().strip()
                if ending == "cls":
                    self.cls = text
                else:
                    self._read_json(json.loads(text))
            except (ValueError, RecursionError) as error:
                reason = f"the label of {self.key} is damaged ({error}); mend {self.key}.{ending}"
                raise BadData(f"{self.path}: {reason}") from error

    def _read_json(self, found: Any) -> None:
        known = found if isinstance(found, dict) else {"label": found}
        value = next((known[name] for name in ("label", "cls", "class") if name in known), None)
        if isinstance(value, list):
            unknown = known.get("unknown", [])
            if not all(isinstance(name, str | int) for name in (*value, *unknown)):
                raise ValueError("a list of labels holds names or numbers")
            self.json = label_of([str(name) for name in value], [str(name) for name in unknown])
        elif isinstance(value, str | int):
            self.json = str(value).strip()
        group = known.get("group")
        if not isinstance(group, str | int | None):
            raise ValueError("a group is a name or a whole number")
        self.group = "" if group is None else str(group)

    def row(self) -> tuple[bytes, bytes, bytes, int, int]:
        if self.place is None:
            raise BadData(
                f"{self.path} has no image for {self.key}; densekit reads {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        label = self.cls or self.json
        if not label:
            raise BadData(
                f"{self.path} has no label for {self.key}; it needs {self.key}.cls, or one in {self.key}.json"
            )
        texts = [text.encode(errors="backslashreplace") for text in (self.key, label, self.group)]
        if max(map(len, texts)) > _LONGEST or any(text.endswith(b"\0") for text in texts):
            raise BadData(f"{self.path}: the key, label or group of {self.key[:100]} is longer than {_LONGEST:,} bytes")
        return texts[0], texts[1], texts[2], *self.place
