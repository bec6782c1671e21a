"""How messages and tables write names, lists, counts, durations and shares."""

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


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def amount(number: float) -> str:
    """1.20 k, 42.0 k, 264.8 M, 2.83 G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:,.{2 if number < 9.995 * factor else 1}f} {unit}"
    return f"{number:.0f} "


def short_amount(number: int) -> str:
    """1.2 k, 42 k, 265 M, 2.83 G; nothing for 0."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:,}" if number else ""


def percentage(share: float | None) -> str:
    """94.1%; a dash for what is not defined."""
    return "-" if share is None else f"{share:.1%}"
