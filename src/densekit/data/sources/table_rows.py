"""The rows of a csv: table by image file, for output that keeps what the table says about an image."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from densekit.config import DataConfig
from densekit.data.sources.expected import Expected
from densekit.data.sources.table import columns_of, image_column, table_root
from densekit.data.sources.table_file import read_table
from densekit.data.sources.table_match import matched
from densekit.data.sources.table_paths import with_slashes


@dataclass(frozen=True)
class TableRow:
    """An image's row."""

    path: str
    """As the table has it."""
    others: tuple[str, ...]
    """The cells of the other columns, unchanged."""


@dataclass(frozen=True)
class TableRows:
    """The rows of a table."""

    others: tuple[str, ...]
    """Names of the columns that are neither images nor labels nor splits."""
    rows: Mapping[Path, TableRow]
    """By image file."""


def rows_of(path: Path, config: DataConfig, expected: Expected) -> TableRows:
    """Reads the table at `path` by the columns that `table` takes. Raises BadData or InvalidInput, as it does."""
    content = read_table(path)
    config, _ = matched(content, config, expected)
    columns, root = columns_of(content, config), table_root(path, config)
    used = {columns.images, columns.splits, *columns.labels}
    others = [i for i, name in enumerate(content.header) if name not in used]
    names = content.column(columns.images)
    read, _ = with_slashes(names, root)
    rows: dict[Path, TableRow] = {}
    for name, spelled, cells in zip(names, read, content.rows, strict=True):
        if name:
            row = TableRow(name, tuple(cells[i] for i in others))
            rows[root / spelled] = row
            # Whether the table is read with / instead of \ can depend on which rows have labels.
            rows.setdefault(root / name.replace("\\", "/"), row)
            rows.setdefault(root / name, row)
    return TableRows(tuple(content.header[i] for i in others), rows)


def table_images(path: Path, config: DataConfig, trained_column: str | None) -> list[Path]:
    """The image files that the table at `path` names, which needs no labels. Raises BadData or InvalidInput.

    Where `config` names no column, `trained_column` is taken, if the table has it.
    """
    content, root = read_table(path), table_root(path, config)
    if config.path_column is None and trained_column in content.header:
        config = config.model_copy(update={"path_column": trained_column})
    names, _ = with_slashes(content.filled(image_column(content, config)), root)
    return [root / name for name in names]
