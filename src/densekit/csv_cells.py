r"""Cells of the CSV files that densekit writes: UTF-8 for any file name, reversible, and no formula for a spreadsheet.

A spreadsheet evaluates a cell that begins with =, +, -, @, a tab or a carriage return. A path that does is written as
./PATH, which names the same file; other text gets a leading apostrophe, as OWASP recommends (CSV Injection). Numbers
stay as they are.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence

_TRIGGERS = "=+\\-@\t\r"
_FORMULA = re.compile(f"'*[{_TRIGGERS}]")
_GUARDED = re.compile(f"'+[{_TRIGGERS}]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BYTE = re.compile(r"\\x([0-9a-f]{2})")
_UNDECODED = re.compile("[\udc80-\udcff]")  # as Python represents a byte of a file's name that is not UTF-8
_LONE = re.compile("[\ud800-\udfff]")


def path_cell(path: str | os.PathLike[str]) -> str:
    r"""A path as a cell, which `path_of` reads. A byte that is not UTF-8 is written as \xb9.

    Where a name holds such an escape itself, its backslash is written as \x5c.
    """
    text = _BYTE.sub(lambda match: f"\\x5cx{match[1]}", os.fspath(path))
    text = _UNDECODED.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)
    return f"./{text}" if text and text[0] in "=+-@\t\r" else text


def path_of(cell: str) -> str:
    """The path that `path_cell` wrote, for `open` and the functions of `os`."""
    return os.fsdecode(_bytes_of(cell))


def _bytes_of(cell: str) -> bytes:
    parts = _BYTE.split(cell)  # text, two digits, text, ...
    return b"".join(bytes.fromhex(part) if i % 2 else os.fsencode(part) for i, part in enumerate(parts))


def text_cell(text: str) -> str:
    """A name or a message as a cell, which `text_of` reads."""
    text = _LONE.sub(lambda match: ascii(match[0])[1:-1], text)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def text_of(cell: str) -> str:
    """The text that `text_cell` wrote."""
    return cell[1:] if _GUARDED.match(cell) else cell


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A CSV file, line by line: quoted where needed, lines end as RFC 4180 has it."""
    writer = csv.writer(_Echo())
    yield writer.writerow(head)
    yield from (writer.writerow(row) for row in rows)


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, text: str) -> str:
        return text
