"""The file of a table: its encoding, its columns and their cells."""

import csv
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from densekit.errors import BadData, UnknownName
from densekit.formatting import printable

_MISSING = frozenset(("", "nan", "na", "n/a", "#n/a", "<na>", "none", "null"))
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """The rows of a table and its header, whose names have no spaces around them."""

    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    """Of the file, where each row ends; for messages."""

    def column(self, name: str) -> list[str]:
        """Its cells, without spaces around them."""
        if name not in self.header:
            raise UnknownName(f"column of {self.path}", name, self.header)
        if self.header.count(name) > 1:
            raise BadData(f"{self.path} has two columns {name}; rename or remove one")
        at = self.header.index(name)
        return [row[at].strip() for row in self.rows]

    def filled(self, name: str, fix: str = "fill it in, or remove the row") -> list[str]:
        """The cells of a column. Raises BadData if one is empty."""
        cells = self.column(name)
        if not all(cells):
            line = self.lines[cells.index("")]
            raise BadData(f"line {line} of {self.path} has no {name}; {fix}")
        return cells

    def usual(self, names: Sequence[str], taken: Collection[str] = ()) -> str | None:
        """The first column that is called one of `names` and not `taken`. Raises BadData if two are called the same."""
        plain: dict[str, str] = {}
        for column in self.header:
            word = "".join(c for c in column.lower() if c not in " -_")
            if word in names and column not in taken and plain.setdefault(word, column) != column:
                raise BadData(f"{self.path} has the columns {plain[word]} and {column}; rename or remove one")
        return next((plain[name] for name in names if name in plain), None)

    def only(self, at: Sequence[int]) -> "Table":
        """The rows at these positions."""
        return replace(self, rows=[self.rows[i] for i in at], lines=[self.lines[i] for i in at])


def is_missing(cell: str) -> bool:
    """Whether a cell is empty, or a word that programs write for an empty one, such as nan or NA."""
    return cell.casefold() in _MISSING


def number(cell: str) -> float | None:
    """The value of a decimal number."""
    return float(cell) if _NUMBER.fullmatch(cell) else None


def one_number_twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Two spellings of the same number, such as 1 and 1.0, among different names."""
    seen: dict[float, str] = {}
    for name in names:
        value = number(name)
        if value is not None and seen.setdefault(value, name) != name:
            return seen[value], name
    return None


def read_table(path: Path) -> Table:
    """Reads UTF-8, or UTF-16 with a byte order mark. Raises BadData for another encoding and for a malformed table."""
    encoding = "utf-8-sig"
    try:
        with path.open("rb") as binary:
            if binary.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                encoding = "utf-16"
        with path.open(newline="", encoding=encoding) as file:
            first = file.readline()
            if "\0" in first:
                raise BadData(_binary(path))
            file.seek(0)
            # Spreadsheets of half the world write semicolons.
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            numbered = [(row, reader.line_num) for row in reader if row]
    except UnicodeDecodeError as error:
        raise BadData(_undecodable(path, encoding, error)) from error
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadData(f"cannot read {path}: {reason}; DATA is csv:FILE, a table in UTF-8 with a header") from error
    if len(numbered) < 2:
        raise BadData(f"{path} has no rows; it needs a header, and a line for each image")
    (header, _), *body = numbered
    for row, line in body:
        if len(row) != len(header):
            raise BadData(f"line {line} of {path} has {len(row)} cells, its header {len(header)}; mend it")
    names = tuple(printable(name.strip()) for name in header)
    return Table(path, names, [row for row, _ in body], [line for _, line in body])


def _binary(path: Path) -> str:
    return f"{path} is no text in UTF-8, perhaps UTF-16 or a spreadsheet; save it as CSV in UTF-8"


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    if encoding == "utf-16":
        return f"{path} begins like UTF-16, but is not ({error.reason}); save it as UTF-8"
    content = path.read_bytes()
    if b"\0" in content:
        return _binary(path)
    for line, text in enumerate(content.split(b"\n"), 1):
        try:
            text.decode()
        except UnicodeDecodeError as bad:
            odd = text[bad.start]
            return (
                f"line {line} of {path} is not UTF-8 (byte 0x{odd:02x}), perhaps Windows-1252 or Latin-1; save the "
                f"table as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8.csv"
            )
    return f"{path} is not UTF-8 ({error.reason}); save it as UTF-8"
