"""The cells of label columns -> classes and labels; what could mean something else is refused.

Shapes: N labelled rows.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from densekit.config import DataConfig
from densekit.data.sources.class_names import check_names, similar
from densekit.data.sources.expected import Expected
from densekit.data.sources.table_binary import absent_and_present, is_of_pair
from densekit.data.sources.table_file import Table, is_missing, number, one_number_twice
from densekit.errors import BadData, InvalidInput, UnknownName

_KNOWN = {1.0: 1.0, 0.0: 0.0, -1.0: math.nan}
_BOOLEANS = {"true": True, "yes": True, "y": True, "t": True, "false": False, "no": False, "n": False, "f": False}
_SEPARATORS = ("|", ";", ",")
_CERTAINLY_FEW = 20
"""Classes up to which a table may have one row for each."""


@dataclass(frozen=True)
class Labels:
    """What the label columns say."""

    classes: tuple[str, ...]
    labels: Tensor
    """(N,), or (N, classes) with 1, 0, and NaN where not known."""
    at: Sequence[int]
    """(N,): positions of the labelled rows in the table."""
    notes: tuple[str, ...] = ()


def read_labels(table: Table, columns: tuple[str, ...], config: DataConfig, expected: Expected | None = None) -> Labels:
    """Raises BadData for cells that are no label, InvalidInput for settings that do not fit the columns.

    For an evaluation, which `expected` tells, one class is enough, and one column of ones and zeros is one class of
    several.
    """
    blank = 0.0 if config.blank_labels == "absent" else math.nan
    every = range(len(table.rows))
    of_several = expected is not None and expected.multi_label and len(expected.classes or ()) > 1
    if len(columns) > 1 or (of_several and config.label_separator is None):
        if config.blank_labels == "class":
            raise InvalidInput("data.blank_labels=class is for one label column; choose unknown or absent for several")
        labels = torch.tensor([_numbers(table, name, blank) for name in columns]).T.contiguous()
        return Labels(columns, labels, every)
    if config.label_separator is not None:
        classes, labels, notes = _separated(table, columns[0], config, blank)
        return Labels(classes, labels, every, notes)
    return _single(table, columns[0], config, evaluated=expected is not None)


def _numbers(table: Table, column: str, blank: float) -> list[float]:
    """1, 0 or NaN."""
    values = []
    for cell, line in zip(table.column(column), table.lines, strict=True):
        try:
            values.append(blank if is_missing(cell) else _KNOWN[float(cell)])
        except (ValueError, KeyError):
            raise BadData(
                f"line {line} of {table.path}: {column} is '{cell}'; each of several label columns holds 1 (it is), "
                "0 (it is not), and -1 or nothing where that is not known"
            ) from None
    return values


def _separated(
    table: Table, column: str, config: DataConfig, blank: float
) -> tuple[tuple[str, ...], Tensor, tuple[str, ...]]:
    """Classes, labels and notes."""
    cells = table.column(column)
    words = config.blank_labels != "class"
    for cell, line in zip(cells, table.lines, strict=True) if config.blank_labels is None else ():
        if cell and is_missing(cell) and cell != config.no_label:
            raise BadData(
                f"line {line} of {table.path}: {column} is '{cell}'; set data.no_label={cell} if it stands for no "
                "class, data.blank_labels=unknown if the labels are not known, or data.blank_labels=class if it is one"
            )
    empty = [not cell or (words and cell != config.no_label and is_missing(cell)) for cell in cells]
    found = [
        set() if no else {part.strip() for part in cell.split(config.label_separator)} - {"", config.no_label}
        for cell, no in zip(cells, empty, strict=True)
    ]
    classes = tuple(sorted(set().union(*found)))
    if not classes:
        raise BadData(f"{column} of {table.path} names no class in any row; there is nothing to learn")
    rows = [
        [blank] * len(classes) if no else [float(name in names) for name in classes]
        for names, no in zip(found, empty, strict=True)
    ]
    return classes, torch.tensor(rows), _perhaps_no_label(column, classes, found) if config.no_label is None else ()


def _perhaps_no_label(column: str, classes: tuple[str, ...], found: Sequence[set[str]]) -> tuple[str, ...]:
    """A note where one word never stands beside a class, as `No Finding` does not, and all others do."""
    beside = set().union(*(names for names in found if len(names) > 1))
    alone = [name for name in classes if name not in beside]
    if len(alone) != 1 or not beside:
        return ()
    return (
        f"'{alone[0]}' of {column} never stands beside another class; set data.no_label={alone[0]} if it means none",
    )


def _single(table: Table, column: str, config: DataConfig, *, evaluated: bool) -> Labels:
    """One class an image, of two classes or more unless it is `evaluated`; or one label."""
    if config.blank_labels == "absent":
        raise InvalidInput(
            f"data.blank_labels=absent is for several label columns or a separator, and {column} is one column of "
            "classes; write a class into its empty cells, or leave these rows out with data.blank_labels=unknown"
        )
    cells = table.column(column)
    unlabelled = _unlabelled(table, column, cells, config)
    at = [i for i, cell in enumerate(cells) if cell not in unlabelled]
    cells = [cells[i] for i in at]
    counts = Counter(cells)
    classes = tuple(sorted(counts))
    if not classes:
        raise BadData(f"no row of {table.path} has a {column}; there is nothing to learn")
    left_out = f"{len(table.rows) - len(at):,} of {len(table.rows):,} rows have no {column}, and are left out"
    notes = [left_out] if len(at) < len(table.rows) else []
    said = absent_and_present(classes, config.positive) if config.binary == "label" else None
    if said is not None:
        _check_positive(table, column, classes, config.positive, evaluated=evaluated)
        return _one_label(table, column, said, cells, at, notes)
    _check_classes(table, column, classes, len(cells), least=1 if evaluated else 2)
    index = {name: i for i, name in enumerate(classes)}
    return Labels(classes, torch.tensor([index[cell] for cell in cells]), at, (*similar(classes), *notes))


def _check_positive(table: Table, column: str, values: Sequence[str], positive: str | None, *, evaluated: bool) -> None:
    """Raises InvalidInput where the value that says present is none of the column's.

    A table that is `evaluated` may spell it in another way, and may have images of the other value alone.
    """
    if positive is None or positive in values or (evaluated and is_of_pair(positive, values)):
        return
    if not evaluated:
        raise UnknownName(f"value of {column}", positive, values)
    raise InvalidInput(
        f"'{positive}' says present (data.positive), but {column} of {table.path} has {' and '.join(values)}; "
        f"set data.positive to the value that says {column} is present"
    )


def _one_label(
    table: Table,
    column: str,
    said: tuple[str | None, str | None],
    cells: Sequence[str],
    at: Sequence[int],
    notes: Sequence[str],
) -> Labels:
    """(N, 1): whether a cell says present."""
    absent, present = said
    check_names((column,), table.path, what="column", fix="rename one")
    labels = torch.tensor([[float(cell == present)] for cell in cells])
    told = " and ".join(f"'{value}' {word}" for value, word in ((present, "present"), (absent, "absent")) if value)
    return Labels((column,), labels, at, (f"{column} is one label: {told}", *notes))


def _unlabelled(table: Table, column: str, cells: Sequence[str], config: DataConfig) -> set[str]:
    """Values that mean that a row has no label. Raises BadData unless the settings say what becomes of such rows."""
    values = set(cells)
    numbers = {number(value) for value in values if not is_missing(value)}
    uncertain = {-1.0, 0.0} <= numbers <= {-1.0, 0.0, 1.0}
    found = {value for value in values if is_missing(value) or (uncertain and number(value) == -1)}
    if config.blank_labels == "unknown":
        return found
    refused = found & {""} if config.blank_labels == "class" else found
    for cell, line in zip(cells, table.lines, strict=True) if refused else ():
        if cell in refused:
            what = f"has '{cell}' for {column}" if cell else f"has no {column}"
            fix = f", or if {cell} is a class set data.blank_labels=class" if cell else ""
            raise BadData(
                f"line {line} of {table.path} {what}; fill it in, remove the row, leave out such rows (there are "
                f"{sum(each in refused for each in cells):,}) with --set data.blank_labels=unknown{fix}"
            )
    return set()


def _check_classes(table: Table, column: str, classes: tuple[str, ...], rows: int, least: int) -> None:
    """Raises BadData for values that are not classes, or that mean the same class."""
    where = f"{column} of {table.path}"
    if len(classes) < least:
        raise BadData(f"{where} is {classes[0]} in every row; there is nothing to tell apart")
    _refuse_combinations(where, classes)
    twice = one_number_twice(classes) or _one_boolean_twice(classes)
    if twice is not None:
        raise BadData(f"{where} has {twice[0]} and {twice[1]}, which mean the same; write it in one way")
    if len(classes) > max(_CERTAINLY_FEW, rows // 2):
        raise BadData(
            f"{where} has {len(classes):,} different values in {rows:,} rows, as numbers or names of images have and "
            "classes have not; name the column of classes with --set data.label_columns=NAME"
        )
    check_names(classes, where, what="class", fix="write it in one way")


def _refuse_combinations(where: str, classes: tuple[str, ...]) -> None:
    """Raises BadData for a cell that names several classes which other cells name too."""
    known = set(classes)
    for separator in _SEPARATORS:
        parts = {name: [part.strip() for part in name.split(separator)] for name in classes if separator in name}
        # A comma may be part of a name; a bar is not, so that a class may be one that never stands alone.
        often = Counter(part for each in parts.values() for part in each) if separator == "|" else Counter[str]()
        for name, each in parts.items():
            if all(part in known or often[part] > 1 for part in each):
                raise BadData(
                    f"{where} has '{name}', which names several classes: set data.label_separator='{separator}' for "
                    f"images of several classes, or write the name without '{separator}' if it is one class"
                )


def _one_boolean_twice(classes: tuple[str, ...]) -> tuple[str, str] | None:
    """Two words for true or two for false, in a column with nothing else but 0 and 1."""
    meanings = [_BOOLEANS.get(name.casefold(), number(name)) for name in classes]
    if not set(meanings) <= {True, False}:
        return None
    seen: dict[float | None, str] = {}
    for name, meaning in zip(classes, meanings, strict=True):
        if seen.setdefault(meaning, name) != name:
            return seen[meaning], name
    return None
