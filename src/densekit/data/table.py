"""csv:FILE: images and labels in a table, a row an image; docs/data.md has the forms it may take."""

import csv
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from densekit.config import DataConfig
from densekit.data.decode import check_header, check_there
from densekit.data.sets import CHECKED_FILES, DataSet, FileImages, SkipList
from densekit.data.split_names import SPLITS
from densekit.errors import BadData, BadImage, InvalidInput, UnknownName

# Columns that are taken where the settings name none, compared without case, spaces, hyphens and underscores.
_PATHS = ("path", "image", "imagepath", "imageindex", "file", "filename")
_LABELS = ("label", "class", "findinglabels")
_GROUPS = ("patient", "patientid", "subject", "subjectid")
_SPLIT = ("split",)

_KNOWN = {1.0: 1.0, 0.0: 0.0, -1.0: math.nan}


@dataclass(frozen=True)
class _Table:
    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    """Of the file, where each row ends; for messages."""

    def column(self, name: str, *, required: bool = True) -> list[str]:
        """Its cells, without spaces around them. Raises BadData for an empty one where it is `required`."""
        if name not in self.header:
            raise UnknownName(f"column of {self.path}", name, self.header)
        if self.header.count(name) > 1:
            raise BadData(f"{self.path} has two columns {name}; rename or remove one")
        at = self.header.index(name)
        cells = [row[at].strip() for row in self.rows]
        if required and not all(cells):
            line = self.lines[cells.index("")]
            raise BadData(f"line {line} of {self.path} has no {name}; fill it in, or remove the row")
        return cells

    def usual(self, names: Sequence[str]) -> str | None:
        """The first column that is called one of `names`."""
        plain = {"".join(c for c in column.lower() if c not in " -_"): column for column in reversed(self.header)}
        return next((plain[name] for name in names if name in plain), None)


def table(path: Path, config: DataConfig, *, strict: bool = True) -> DataSet:
    """The images that the rows of `path` name. Raises BadData for what the file or its images lack.

    Several label columns, or one with `label_separator`, make labels (N, classes): 1, 0, or NaN where not known. Not
    `strict`, for somebody who looks for faults: with groups in several splits, and any number of unreadable files.
    """
    content = _read(path)
    root = path.parent if config.image_root is None else Path(config.image_root).expanduser()
    path_column = _named(content, config.path_column, _PATHS, "path_column", "the images")
    names = content.column(path_column)
    _refuse_twice(content, names)
    label_columns = config.label_columns or (_named(content, None, _LABELS, "label_columns", "the labels"),)
    classes, labels = _labels(content, label_columns, config)
    group_column = config.group_column or content.usual(_GROUPS)
    groups = None if group_column is None else content.column(group_column)
    split_column = config.split_column or content.usual(_SPLIT)
    places = ["train"] * len(names) if split_column is None else _places(content, split_column)
    if groups is not None and strict:
        _refuse_divided(content, groups, places, str(group_column))
    skipped = SkipList(config.max_bad if strict else sys.maxsize)
    paths = [root / name for name in names]
    good = _readable(paths, skipped, config)
    splits = {}
    for split in ("train", "val", "test"):
        at = [i for i in good if places[i] == split]
        if at or split == "train":
            chosen = None if groups is None else tuple(groups[i] for i in at)
            splits[split] = FileImages(
                tuple(paths[i] for i in at), labels[torch.tensor(at, dtype=torch.int64)], root, chosen
            )
    used = {"images": path_column, "labels": ", ".join(label_columns), "groups": group_column, "splits": split_column}
    columns = "; ".join(f"{what} {column}" for what, column in used.items() if column is not None)
    return DataSet(f"csv:{path}", classes, splits, skipped=skipped, columns=columns)


def _read(path: Path) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            # Spreadsheets of half the world write semicolons.
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            numbered = [(row, reader.line_num) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadData(f"cannot read {path}: {reason}; DATA is csv:FILE, a table in UTF-8 with a header") from error
    if len(numbered) < 2:
        raise BadData(f"{path} has no rows; it needs a header, and a line for each image")
    (header, _), *body = numbered
    for row, line in body:
        if len(row) != len(header):
            raise BadData(f"line {line} of {path} has {len(row)} cells, its header {len(header)}; mend it")
    return _Table(path, tuple(name.strip() for name in header), [row for row, _ in body], [line for _, line in body])


def _named(content: _Table, given: str | None, usual: Sequence[str], setting: str, what: str) -> str:
    name = given or content.usual(usual)
    if name is None:
        raise InvalidInput(
            f"which column of {content.path} has {what}? It has {', '.join(content.header)}; "
            f"say so with --set data.{setting}=NAME"
        )
    return name


def _refuse_twice(content: _Table, names: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for name, line in zip(names, content.lines, strict=True):
        plain = os.path.normpath(name)
        if plain in seen:
            raise BadData(f"{name} stands in lines {seen[plain]} and {line} of {content.path}; keep one row an image")
        seen[plain] = line


def _labels(content: _Table, columns: tuple[str, ...], config: DataConfig) -> tuple[tuple[str, ...], Tensor]:
    """Class names, and labels (N,) or (N, classes)."""
    blank = 0.0 if config.blank_labels == "absent" else math.nan
    if len(columns) > 1:
        return columns, torch.tensor([_numbers(content, name, blank) for name in columns]).T.contiguous()
    if config.label_separator is not None:
        return _separated(content, columns[0], config, blank)
    cells = content.column(columns[0])
    classes = tuple(sorted(set(cells)))
    if len(classes) < 2:
        raise BadData(f"{columns[0]} of {content.path} is {classes[0]} in every row; there is nothing to tell apart")
    index = {name: i for i, name in enumerate(classes)}
    return classes, torch.tensor([index[cell] for cell in cells])


def _numbers(content: _Table, column: str, blank: float) -> list[float]:
    """1, 0 or NaN."""
    values = []
    for cell, line in zip(content.column(column, required=False), content.lines, strict=True):
        try:
            values.append(_KNOWN[float(cell)] if cell and cell.lower() != "nan" else blank)
        except (ValueError, KeyError):
            raise BadData(
                f"line {line} of {content.path}: {column} is '{cell}'; each of several label columns holds 1 (it is), "
                "0 (it is not), and -1 or nothing where that is not known"
            ) from None
    return values


def _separated(content: _Table, column: str, config: DataConfig, blank: float) -> tuple[tuple[str, ...], Tensor]:
    cells = content.column(column, required=False)
    found = [{part.strip() for part in cell.split(config.label_separator)} - {"", config.no_label} for cell in cells]
    classes = tuple(sorted(set().union(*found)))
    if not classes:
        raise BadData(f"{column} of {content.path} names no class in any row; there is nothing to learn")
    rows = [
        [float(name in names) for name in classes] if cell else [blank] * len(classes)
        for cell, names in zip(cells, found, strict=True)
    ]
    return classes, torch.tensor(rows)


def _places(content: _Table, column: str) -> list[str]:
    cells = content.column(column)
    for cell, line in zip(cells, content.lines, strict=True):
        if cell.lower() not in SPLITS:
            raise BadData(f"line {line} of {content.path}: {column} is '{cell}'; it is train, val or test")
    return [SPLITS[cell.lower()] for cell in cells]


def _refuse_divided(content: _Table, groups: Sequence[str], places: Sequence[str], column: str) -> None:
    home: dict[str, str] = {}
    for group, place in zip(groups, places, strict=True):
        if home.setdefault(group, place) != place:
            raise BadData(
                f"{column} {group} of {content.path} is in {home[group]} and in {place}: what was learned of it would "
                "be tested on it; keep each in one split"
            )


def _readable(paths: Sequence[Path], skipped: SkipList, config: DataConfig) -> list[int]:
    """Positions of the files whose headers can be read; of very many, of those that are there."""
    good = []
    for i, path in enumerate(paths):
        try:
            if len(paths) > CHECKED_FILES:
                check_there(path)
            else:
                check_header(path, max_pixels=config.max_pixels)
        except BadImage as error:
            skipped.add(path, error)
        else:
            good.append(i)
    return good
