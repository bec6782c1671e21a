"""Class names -> names of folders that every file system takes, none of them twice."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from densekit.data.list_images import is_litter

# What separates paths, what Windows and its file systems refuse, and what no terminal should obey.
_REFUSED = re.compile('[/\\\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST = 120  # bytes; file systems take 255, encrypted ones half of that


def folder_names(names: Iterable[str]) -> tuple[str, ...]:
    """For each name one of a folder: itself where that is possible.

    Other characters become _, and names that a file system may take for the same, such as Cat and cat, get numbers.
    """
    taken: set[str] = set()
    return tuple(_free(_safe(name), taken) for name in names)


def _safe(name: str) -> str:
    safe = _REFUSED.sub("_", name).rstrip(". ") or "_"
    if is_litter(safe) or _DEVICES.fullmatch(safe):
        safe = f"_{safe}"
    if len(safe.encode()) > _LONGEST:  # told apart by what is cut off
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
        safe = f"{safe.encode()[: _LONGEST - 9].decode(errors='ignore')}-{digest}"
    return safe


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while _folded(free) in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(_folded(free))
    return free


def _folded(name: str) -> str:
    """What is equal for names that macOS or Windows take for the same."""
    return unicodedata.normalize("NFC", name.casefold())


def numbered(name: str, number: int) -> str:
    """photo.jpg -> photo.jpg, photo-2.jpg, photo-3.jpg."""
    stem, dot, suffix = name.rpartition(".")
    if number == 1:
        return name
    return f"{stem}-{number}.{suffix}" if dot and stem else f"{name}-{number}"
