"""hf:NAME[:CONFIG]: data sets of the Hugging Face Hub, or local ones of its library `datasets` (an extra).

The library downloads, once, and gives Arrow files that are mapped into memory: any sample is a read at a known place.
Its own decoder is switched off; images are decoded as all others are.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.config import DataConfig
from densekit.data.decoding.decode import Source, check_there
from densekit.data.sets import QUICKLY_READ, DataSet, EncodedImages, SkipList, bytes_of, hashes
from densekit.data.sources.expected import Expected
from densekit.data.sources.split_names import WITH_DEV
from densekit.errors import BadData, BadImage, InvalidInput, UnknownName
from densekit.folders import expanded

_LABELS = ("label", "labels", "class", "target", "fine_label")
_ROWS = 1000  # read at once, where all are read


@dataclass(frozen=True)
class ArrowImages(EncodedImages):
    """Encoded images in a column of Arrow files."""

    rows: Any
    """A `datasets.Dataset` of that column alone."""
    column: str
    source: str
    """hf:NAME/SPLIT."""
    at: NDArray[np.int64]
    """(N,): row of each."""
    labels: Tensor

    @property
    def grouped(self) -> Sequence[str] | None:
        """None."""
        return None

    def name(self, sample: int) -> str:
        """The row, in the order of the data set's own split."""
        return str(self.at[sample])

    def path(self, sample: int) -> Path:
        """hf:NAME/SPLIT/ROW."""
        return Path(f"{self.source}/{self.at[sample]}")

    def encoded(self, sample: int) -> Source:
        """Bytes, or the file that the row names."""
        cell = self.rows[int(self.at[sample])][self.column]
        if not cell or (cell["bytes"] is None and not cell["path"]):
            raise BadImage("missing", f"{self.path(sample)} has no image; leave its row out")
        content: bytes | None = cell["bytes"]
        return Path(cell["path"]) if content is None else content

    def fingerprint(self) -> str:
        """By rows, labels and sizes, and up to 1 GB by contents."""
        digest = hashlib.sha256(self.at.tobytes() + self.labels.numpy().tobytes())
        sizes = self._sizes[self.at]
        digest.update(sizes.tobytes())
        if self.stored_bytes() <= QUICKLY_READ:
            digest.update(self.content_hashes().tobytes())
        return digest.hexdigest()

    def stored_bytes(self) -> int:
        """By the table."""
        return int(self._sizes[self.at].sum())

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.fromiter((_size(cell) for cell in _cells(self.rows, self.column)), np.int64, len(self.rows))

    def _read_hashes(self) -> NDArray[np.uint64]:
        sources = (self.encoded(sample) for sample in range(len(self)))
        return hashes(source if isinstance(source, bytes) else bytes_of(Path(source)) for source in sources)

    def _part(self, indices: NDArray[np.int64]) -> Self:
        part = replace(self, at=self.at[indices], labels=self.labels[torch.from_numpy(indices)])
        if "_sizes" in vars(self):
            vars(part)["_sizes"] = self._sizes
        return part


def hub(name: str, config: DataConfig, *, strict: bool = True, expected: Expected | None = None) -> DataSet:
    """NAME[:CONFIG] of the Hub, a folder, or a .parquet file. Raises BadData, InvalidInput, UnknownName.

    Not `strict`, for somebody who looks for faults: with any number of rows that have no image. `expected`, for an
    evaluation: any split and any class are enough, and splits of other names keep them.
    """
    found = _loaded(name)
    evaluated = expected is not None and not expected.is_own
    splits, left_out = (_all_splits(found), []) if evaluated else _splits(name, found)
    features = next(iter(splits.values())).features
    column = _image_column(name, features, config.path_column)
    label = _label_column(name, features, config.label_columns)
    labelled = {split: rows for split, rows in splits.items() if {column, label} <= rows.features.keys()}
    values = {split: _values(rows, label) for split, rows in labelled.items()}
    values = {split: cells for split, cells in values.items() if set(map(type, cells)) != {type(None)}}
    names = _class_names(labelled[split].features[label] for split in (values if evaluated else tuple(values)[:1]))
    classes, kind = _classes(name, names, list(values.values()), label, least=1 if evaluated else 2)
    skipped = SkipList(config.max_bad if strict else sys.maxsize)
    images = {}
    for split, cells in values.items():
        labels = kind(cells)
        if labels is not None:  # hidden: the Hub's way to keep a test's answers
            own = splits[split].select_columns([column]).cast_column(column, _undecoded())
            every = ArrowImages(own, column, f"hf:{name}/{split}", np.arange(len(own)), labels)
            images[split] = _there(every, skipped)
    if not images or ("train" not in images and not evaluated):
        raise BadData(f"hf:{name} has no labels in its {'training ' * (not evaluated)}images; name other data")
    left_out += [split for split in splits if split not in images]
    columns = f"images {column}; labels {label}" + (f"; left out: {', '.join(left_out)}" if left_out else "")
    return DataSet(f"hf:{name}", classes, images, skipped=skipped, columns=columns)


def hub_pictures(name: str, column: str | None) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """("hf:NAME/SPLIT/ROW", what reads it) of each image in all splits, which need no labels.

    `column` has the images; where it is not there, the only one that does. Of a row without an image the bytes are
    empty. Raises BadData or InvalidInput.
    """
    for split, rows in _all_splits(_loaded(name)).items():
        images = _image_column(name, rows.features, column if column in rows.features else None)
        own = rows.select_columns([images]).cast_column(images, _undecoded())
        every = ArrowImages(own, images, f"hf:{name}/{split}", np.arange(len(own)), torch.zeros(len(own)))
        for sample in range(len(own)):
            yield str(every.path(sample)), partial(_read, every, sample)


def _read(images: ArrowImages, sample: int) -> bytes:
    try:
        source = images.encoded(sample)
        return source if isinstance(source, bytes) else bytes_of(Path(str(source)))
    except BadImage:
        return b""


def _there(images: ArrowImages, skipped: SkipList) -> ArrowImages:
    """Those that have bytes, or a file; the others are noted in `skipped`."""
    good = np.ones(len(images), dtype=bool)
    for sample, path in _without_bytes(images.rows, images.column):
        try:
            check_there(path or images.encoded(sample), name=str(images.path(sample)))
        except BadImage as error:
            skipped.add(images.path(sample), error)
            good[sample] = False
    return images if good.all() else images.subset(np.flatnonzero(good))


def _without_bytes(rows: Any, column: str) -> Iterator[tuple[int, str | None]]:
    """Rows whose cell is empty or names a file, and which. Arrow says so without a look at any image."""
    cells = rows.with_format("arrow")
    at = 0
    for first in range(0, len(rows), _ROWS):
        for chunk in cells[first : first + _ROWS].column(column).chunks:
            empty = np.asarray(chunk.is_null()) | np.asarray(chunk.field("bytes").is_null())
            if empty.any():
                paths = chunk.field("path").to_pylist()
                yield from ((at + row, paths[row]) for row in np.flatnonzero(empty).tolist())
            at += len(chunk)


def _loaded(name: str) -> Mapping[str, Any]:
    """Split -> `datasets.Dataset`."""
    try:
        import datasets
    except ImportError as error:
        raise InvalidInput(f"hf:{name} needs the library datasets: pip install 'densekit[hf]'") from error
    path = expanded(name)
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            found = datasets.load_from_disk(str(path))
        elif path.is_file():
            found = datasets.load_dataset("parquet", data_files=str(path))
        elif path.is_dir():
            found = datasets.load_dataset(str(path))
        else:
            owner, _, chosen = name.partition(":")
            found = datasets.load_dataset(owner, chosen or None)
    except Exception as error:  # the library's, its file systems', its HTTP client's: they share no base
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BadData(
            f"cannot load hf:{name} ({type(error).__name__}: {reason}); check the name and the network, or name "
            "a copy on this machine: hf:FOLDER of save_to_disk, or hf:FILE.parquet"
        ) from error
    return {"train": found} if isinstance(found, datasets.Dataset) else dict(found)


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _image_column(name: str, features: Mapping[str, Any], given: str | None) -> str:
    known = [column for column, feature in features.items() if type(feature).__name__ == "Image"]
    if given is not None:
        if given not in features:
            raise UnknownName(f"column of hf:{name}", given, features)
        return given
    if len(known) != 1:
        which = (
            f"has several columns of images, {', '.join(known)}" if known else f"has {', '.join(features)}, no images"
        )
        raise InvalidInput(f"hf:{name} {which}; say which with --set data.path_column=NAME")
    return known[0]


def _label_column(name: str, features: Mapping[str, Any], given: tuple[str, ...] | None) -> str:
    if given is not None:
        if len(given) > 1:
            raise InvalidInput(f"data.label_columns={','.join(given)}: hf:NAME has one column of labels; name one")
        if given[0] not in features:
            raise UnknownName(f"column of hf:{name}", given[0], features)
        return given[0]
    known = [column for column, feature in features.items() if _names(feature) is not None]
    if len(known) != 1:
        known = [column for column in (known or features) if column.lower() in _LABELS]
    if len(known) != 1:
        raise InvalidInput(
            f"which column of hf:{name} has the labels? It has {', '.join(features)}; say so with "
            "--set data.label_columns=NAME"
        )
    return known[0]


def _names(feature: Any) -> Sequence[str] | None:
    """Of a ClassLabel, or of a list of them."""
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
    return getattr(inner, "names", None)


def _splits(name: str, found: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """By our names, and what has none of them."""
    if len(found) == 1:
        return {"train": next(iter(found.values()))}, []
    known = {split: WITH_DEV[split.lower()] for split in found if split.lower() in WITH_DEV}
    if "train" not in known.values() or len(set(known.values())) < len(known):
        raise BadData(
            f"hf:{name} has the splits {', '.join(found)}; training needs one train, and at most one val and test "
            "(densekit evaluate takes any)"
        )
    order = sorted(known, key=lambda split: ("train", "val", "test").index(known[split]))
    return {known[split]: found[split] for split in order}, [split for split in found if split not in known]


def _all_splits(found: Mapping[str, Any]) -> dict[str, Any]:
    """By our names, where they have one and no other split has it: train, val and test first."""
    named: dict[str, Any] = {}
    for split, rows in found.items():
        ours = WITH_DEV.get(split.lower(), split)
        named[split if ours in named else ours] = rows
    if len(named) == 1 and not named.keys() & WITH_DEV.keys():
        return {"train": next(iter(named.values()))}
    first = [split for split in ("train", "val", "test") if split in named]
    return {split: named[split] for split in dict.fromkeys([*first, *named])}


def _class_names(features: Iterable[Any]) -> list[str]:
    """Of class labels: the names that any of the splits has; none of other columns."""
    return list(dict.fromkeys(name for feature in features for name in _names(feature) or ()))


def _values(rows: Any, label: str) -> list[Any]:
    """A column, class labels by their names: what their numbers mean is each split's own."""
    values: list[Any] = rows.select_columns([label]).with_format("arrow")[:].column(0).to_pylist()
    names = dict(enumerate(_names(rows.features[label]) or ()))
    return [
        [names.get(one, one) for one in value] if isinstance(value, list) else names.get(value, value)
        for value in values
    ]


def _classes(
    name: str, given: list[str], values: list[list[Any]], label: str, *, least: int
) -> tuple[tuple[str, ...], Any]:
    """Class names, and what makes labels (N,) or (N, classes) of a column; none of one whose labels are all hidden.

    `given` are the names that class labels have, `least` is how many there must be.
    """
    every = [value for column in values for value in column]
    several = any(isinstance(value, list) for value in every)
    flat = [one for value in every for one in (value if isinstance(value, list) else [value])]
    if not all(isinstance(value, str | int) for value in flat):
        raise BadData(
            f"{label} of hf:{name} has empty cells or values that are no class; name another column, or mend it"
        )
    if not given and len({isinstance(value, str) for value in flat}) > 1:
        raise BadData(f"{label} of hf:{name} is words in places and numbers in others; mend it, or name another column")
    values_of = given or sorted(set(flat))
    classes = tuple(map(str, values_of))
    if len(classes) < least:
        raise BadData(f"{label} of hf:{name} has one class, {', '.join(classes)}; there is nothing to tell apart")
    numbers = {value: i for i, value in enumerate(values_of)}

    def number_of(value: Any) -> int:
        if value not in numbers:
            raise BadData(
                f"{label} of hf:{name} holds {value}, which is none of the {len(classes)} classes of train "
                f"({', '.join(classes[:3])}, ...); leave such rows out, or give all splits the same classes"
            )
        return numbers[value]

    def labels(column: list[Any]) -> Tensor | None:
        if not several:
            if given and column and set(column) == {-1}:
                return None
            return torch.tensor([number_of(value) for value in column])
        found = torch.zeros(len(column), len(classes))
        for row, chosen in enumerate(column):
            found[row, [number_of(value) for value in chosen]] = 1
        return found

    return classes, labels


def _cells(rows: Any, column: str) -> Iterator[Any]:
    for first in range(0, len(rows), _ROWS):
        yield from rows[first : first + _ROWS][column]


def _size(cell: Any) -> int:
    """Bytes of an encoded image; 0 of one that is not there."""
    if not cell:
        return 0
    if cell["bytes"] is not None:
        return len(cell["bytes"])
    path = Path(cell["path"] or "")
    return path.stat().st_size if path.is_file() else 0
