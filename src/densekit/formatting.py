"""How messages put things, in every room."""

import os
import re
from collections.abc import Sequence

# Control characters, separators of lines, marks that turn the direction of text, and bytes that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LISTED = 3


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1 channel, 3 channels, 1,000 classes."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def printable(text: str | os.PathLike[str]) -> str:
    r"""A name or path as one line of valid Unicode that no terminal obeys: other characters as \xb9 or \u202e."""
    return _UNPRINTABLE.sub(_escaped, os.fspath(text))


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is not UTF-8
        character = chr(ord(character) - 0xDC00)
    return ascii(character)[1:-1]


def listed(names: Sequence[str]) -> str:
    """The first of them, for an error."""
    return ", ".join(names[:_LISTED]) + (" and more" if len(names) > _LISTED else "")
