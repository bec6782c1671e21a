"""The columns of a table that a model is evaluated on: found by their usual names, and by the model's classes."""

from collections.abc import Collection, Iterable
from typing import Any

from densekit.config import DataConfig
from densekit.data.sources.expected import Expected
from densekit.data.sources.table_binary import says_present
from densekit.data.sources.table_file import Table, is_missing
from densekit.errors import InvalidInput
from densekit.formatting import listed

LABELS = ("label", "class", "findinglabels")
"""Usual names of the column of labels, compared as `Table.usual` does."""
SEPARATORS = ("|", ";", ",")


def matched(table: Table, config: DataConfig, expected: Expected) -> tuple[DataConfig, tuple[str, ...]]:
    """`config` with the columns that it leaves open, as far as the model tells them, and notes for people.

    What `config` names stays; then a column of the training table is taken if this table has one of that name. Raises
    InvalidInput where no column has labels that the model knows.
    """
    if expected.classes is None:
        return config, ()
    trained = expected.trained
    if trained is None or not trained.source.startswith("csv:"):
        trained = DataConfig(source="csv:")
    changes = _columns_of_training(table, config, trained)
    taken = {getattr(config, setting) or changes.get(setting) for setting in ("path_column", "group_column")}
    if expected.multi_label and len(expected.classes) == 1 and config.label_separator is None:
        changes |= _one_label(table, config, trained, expected, taken)
        if config.positive is None and trained.positive is not None and not says_present(trained.positive):
            changes["positive"] = trained.positive
        return config.model_copy(update={"binary": "label"} | changes), ()
    if not expected.multi_label:
        changes |= _one_label(table, config, trained, expected, taken)
        return config.model_copy(update=changes), ()
    named = config.label_columns or ()
    if config.label_separator is None and not named:
        named = tuple(name for name in expected.classes if name in table.header)
    if config.label_separator is not None or not set(named) & set(expected.classes):
        changes |= _listed_labels(table, config, trained, expected.classes)
        return config.model_copy(update=changes), ()
    changes["label_columns"] = named
    if config.blank_labels is None and trained.blank_labels != "class":
        changes["blank_labels"] = trained.blank_labels
    return config.model_copy(update=changes), _near_misses(table, expected.classes)


def _columns_of_training(table: Table, config: DataConfig, trained: DataConfig) -> dict[str, Any]:
    """The columns of paths, groups and splits that the training table named, where this table has them too."""
    changes: dict[str, Any] = {}
    for setting in ("path_column", "group_column", "split_column"):
        column = getattr(trained, setting)
        if getattr(config, setting) is None and column in table.header:
            changes[setting] = column
    return changes


def _one_label(
    table: Table, config: DataConfig, trained: DataConfig, expected: Expected, taken: Collection[str | None]
) -> dict[str, Any]:
    """The column of one class an image, and what its words for an empty cell mean.

    One that is called like a class comes after one of a usual name, except for a model of one label: it may be one of
    several columns that say yes or no.
    """
    changes: dict[str, Any] = {}
    if config.label_columns is None:
        classes, usual = expected.classes or (), table.usual(LABELS)
        column = _trained_column(table, trained)
        if column is None and (expected.multi_label or usual is None):
            column = next((name for name in classes if name in table.header), None)
        if column is None and usual is None:
            holding = [name for name in table.header if name not in taken and _holds(table.column(name), classes)]
            column = holding[0] if len(holding) == 1 else None
        changes["label_columns"] = None if column is None else (column,)
    if config.blank_labels is None and trained.blank_labels != "absent":
        changes["blank_labels"] = trained.blank_labels
    return changes


def _listed_labels(table: Table, config: DataConfig, trained: DataConfig, classes: Collection[str]) -> dict[str, Any]:
    """The column that lists the classes of an image, and what stands between them."""
    columns = config.label_columns
    column = columns[0] if columns else _trained_column(table, trained) or table.usual(LABELS)
    if column is None:
        raise InvalidInput(
            f"no column of {table.path} is called like a class of the model ({listed(list(classes))}), or lists its "
            f"classes; it has {', '.join(table.header)}; rename columns, or name the one that lists classes with "
            "--set data.label_columns=NAME"
        )
    no_label = config.no_label or trained.no_label
    separator = config.label_separator or trained.label_separator or _separator(table, column, {*classes, no_label})
    if separator is None and not (columns and len(columns) > 1):
        raise InvalidInput(
            f"{column} of {table.path} does not list classes of the model ({listed(list(classes))}), of which an image "
            "may have several; set data.label_separator to what stands between them, or name columns that are called "
            "like the classes with data.label_columns"
        )
    blank = config.blank_labels or trained.blank_labels
    return {
        "label_columns": columns or (column,),
        "label_separator": separator,
        "no_label": no_label,
        "blank_labels": blank,
    }


def _trained_column(table: Table, trained: DataConfig) -> str | None:
    """The only label column of the training table, if this table has it."""
    columns = trained.label_columns or ()
    return columns[0] if len(columns) == 1 and columns[0] in table.header else None


def _holds(cells: Iterable[str], classes: Collection[str]) -> bool:
    """Whether a column has nothing but classes, and at least one."""
    values = {cell for cell in cells if not is_missing(cell)}
    return bool(values) and values <= set(classes)


def _separator(table: Table, column: str, known: Collection[str | None]) -> str | None:
    """The first separator by which every cell lists known words."""
    cells = {cell for cell in table.column(column) if not is_missing(cell)}
    for separator in SEPARATORS:
        if all(part.strip() in known for cell in cells for part in cell.split(separator)):
            return separator
    return None


def _near_misses(table: Table, classes: Collection[str]) -> tuple[str, ...]:
    """A note about columns that are called like a class but for case, spaces, hyphens and underscores."""
    plain = {_plain(name): name for name in classes if name not in table.header}
    found = [f"{name} (the model has {plain[_plain(name)]})" for name in table.header if _plain(name) in plain]
    return (f"not read, as the name differs: {', '.join(found)}; rename such columns",) if found else ()


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in " -_")
