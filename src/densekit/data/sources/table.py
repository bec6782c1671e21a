"""csv:FILE: images and labels in a table, a row an image; docs/data.md has the forms it may take."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from densekit.config import DataConfig
from densekit.data.decoding.decode import check_header, check_there
from densekit.data.sets import CHECKED_FILES, DataSet, FileImages, SkipList
from densekit.data.sources.expected import Expected
from densekit.data.sources.split_names import SPLITS
from densekit.data.sources.table_file import Table, is_missing, one_number_twice, read_table
from densekit.data.sources.table_labels import read_labels
from densekit.data.sources.table_match import LABELS, matched
from densekit.data.sources.table_paths import missing_files, with_slashes
from densekit.errors import BadData, BadImage, InvalidInput
from densekit.folders import expanded

# Columns that are taken where the settings name none, compared without case, spaces, hyphens and underscores.
_PATHS = ("path", "image", "imagepath", "imageindex", "file", "filename")
_GROUPS = ("patient", "patientid", "subject", "subjectid")
_SPLIT = ("split",)


@dataclass(frozen=True)
class Columns:
    """Which column is what."""

    images: str
    labels: tuple[str, ...]
    groups: str | None
    splits: str | None

    def __str__(self) -> str:
        used = {"images": self.images, "labels": ", ".join(self.labels), "groups": self.groups, "splits": self.splits}
        return "; ".join(f"{what} {column}" for what, column in used.items() if column is not None)


def table(path: Path, config: DataConfig, *, strict: bool = True, expected: Expected | None = None) -> DataSet:
    """The images that the rows of `path` name. Raises BadData for what the file or its images lack.

    Several label columns, or one with `label_separator`, make labels (N, classes): 1, 0, or NaN where not known. Not
    `strict`, for somebody who looks for faults: with groups in several splits, and any number of unreadable files.
    `expected`, for an evaluation: columns are found by the model's classes too.
    """
    content = read_table(path)
    remarks: tuple[str, ...] = ()
    if expected is not None:
        config, remarks = matched(content, config, expected)
    columns = columns_of(content, config)
    found = read_labels(content, columns.labels, config, expected)
    content = content.only(found.at)
    root = table_root(path, config)
    names, notes = with_slashes(content.filled(columns.images), root)
    _refuse_twice(content, names)
    groups = None if columns.groups is None else _groups(content, columns.groups)
    places = ["train"] * len(names) if columns.splits is None else _places(content, columns.splits)
    if groups is not None and strict and (expected is None or expected.is_own):
        _refuse_divided(content, groups, places, str(columns.groups))
    skipped = SkipList(config.max_bad if strict else sys.maxsize)
    paths = [root / name for name in names]
    missing = partial(missing_files, content, columns.images, names, root)
    good = _readable(paths, skipped, config, missing)
    if len(good) < len(paths) // 2 and (line := missing()) is not None:
        notes = (*notes, line)
    splits = {}
    for split in ("train", "val", "test"):
        at = [i for i in good if places[i] == split]
        if at or (split == "train" and (expected is None or not good)):
            chosen = None if groups is None else tuple(groups[i] for i in at)
            splits[split] = FileImages(
                tuple(paths[i] for i in at), found.labels[torch.tensor(at, dtype=torch.int64)], root, chosen
            )
    return DataSet(
        f"csv:{path}",
        found.classes,
        splits,
        skipped=skipped,
        columns=str(columns),
        notes=(*found.notes, *notes, *remarks),
    )


def table_root(path: Path, config: DataConfig) -> Path:
    """The folder that the paths of the table at `path` start from."""
    return path.parent if config.image_root is None else expanded(config.image_root)


def columns_of(content: Table, config: DataConfig) -> Columns:
    """As the settings say, else by usual names. Raises InvalidInput where a column would be two things."""
    given = [
        *(name for name in (config.path_column, config.group_column, config.split_column) if name is not None),
        *(config.label_columns or ()),
    ]
    for name in given:
        if given.count(name) > 1:
            raise InvalidInput(f"the column {name} is named for two things; name another for one of them")
    images = image_column(content, config, given)
    groups = config.group_column or content.usual(_GROUPS, given)
    splits = config.split_column or content.usual(_SPLIT, given)
    labels = config.label_columns or (_label_column(content, given, [images, groups, splits]),)
    return Columns(images, labels, groups, splits)


def _label_column(content: Table, given: Sequence[str], others: Sequence[str | None]) -> str:
    """By its usual name, or the only one that is left."""
    left = [name for name in content.header if name not in others]
    if content.usual(LABELS, given) is None and len(left) == 1:
        return left[0]
    return _usual(content, LABELS, given, "label_columns", "the labels")


def image_column(content: Table, config: DataConfig, taken: Sequence[str] = ()) -> str:
    """The column of image files. Raises InvalidInput where the settings name none, and no name is usual for one."""
    return config.path_column or _usual(content, _PATHS, taken, "path_column", "the images")


def _usual(content: Table, usual: Sequence[str], taken: Sequence[str], setting: str, what: str) -> str:
    name = content.usual(usual, taken)
    if name is None:
        raise InvalidInput(
            f"which column of {content.path} has {what}? It has {', '.join(content.header)}; "
            f"say so with --set data.{setting}=NAME"
        )
    return name


def _refuse_twice(content: Table, names: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for name, line in zip(names, content.lines, strict=True):
        plain = os.path.normpath(name)
        if plain in seen:
            raise BadData(f"{name} stands in lines {seen[plain]} and {line} of {content.path}; keep one row an image")
        seen[plain] = line


def _groups(content: Table, column: str) -> list[str]:
    """Raises BadData for words that stand for an empty cell, and for one number in two spellings."""
    cells = content.filled(column)
    for cell, line in zip(cells, content.lines, strict=True):
        if is_missing(cell):
            raise BadData(
                f"line {line} of {content.path} has no {column} but '{cell}', and all such rows would be one group; "
                "give each its own, or remove them"
            )
    twice = one_number_twice(dict.fromkeys(cells))
    if twice is not None:
        raise BadData(f"{column} of {content.path} has {twice[0]} and {twice[1]}, one number; write it in one way")
    return cells


def _places(content: Table, column: str) -> list[str]:
    cells = content.filled(column)
    for cell, line in zip(cells, content.lines, strict=True):
        if cell.lower() not in SPLITS:
            raise BadData(f"line {line} of {content.path}: {column} is '{cell}'; it is train, val or test")
    return [SPLITS[cell.lower()] for cell in cells]


def _refuse_divided(content: Table, groups: Sequence[str], places: Sequence[str], column: str) -> None:
    home: dict[str, str] = {}
    for group, place in zip(groups, places, strict=True):
        if home.setdefault(group, place) != place:
            raise BadData(
                f"{column} {group} of {content.path} is in {home[group]} and in {place}: what was learned of it would "
                "be tested on it; keep each in one split"
            )


def _readable(
    paths: Sequence[Path], skipped: SkipList, config: DataConfig, missing: Callable[[], str | None]
) -> list[int]:
    """Positions of the files whose headers can be read; of very many, of those that are there.

    `missing` gives the error where files do not exist; none: that of the file.
    """
    good = []
    for i, path in enumerate(paths):
        try:
            if len(paths) > CHECKED_FILES:
                check_there(path)
            else:
                check_header(path, max_pixels=config.max_pixels)
        except BadImage as error:
            _skip(path, error, skipped, missing)
        else:
            good.append(i)
    if not good and (line := missing()) is not None:
        raise BadData(line)
    return good


def _skip(path: Path, error: BadImage, skipped: SkipList, missing: Callable[[], str | None]) -> None:
    try:
        skipped.add(path, error)
    except BadData as refusal:
        line = missing() if error.code == "missing" else None
        raise (refusal if line is None else BadData(line)) from error
