"""Names of classes that cannot be told apart, or cannot be written down."""

import unicodedata
from collections.abc import Iterable

from densekit.errors import BadData
from densekit.formatting import counted, printable


def check_names(
    names: Iterable[str],
    where: object,
    *,
    what: str = "class folder",
    fix: str = "move the images into one folder",
) -> None:
    """Raises BadData for a name that is no printable line of Unicode, and for two that look the same."""
    seen: dict[str, str] = {}
    for name in names:
        if printable(name) != name:
            raise BadData(
                f"the {what} {printable(name)} in {where} has a name that is not UTF-8 or has control "
                "characters; rename it, as a model stores its classes as text"
            )
        plain = " ".join(unicodedata.normalize("NFC", name).split())
        other = seen.setdefault(plain, name)
        if other != name:
            raise BadData(f"{other!a} and {name!a} in {where} differ only in spaces or in Unicode normalisation; {fix}")


def similar(names: Iterable[str]) -> list[str]:
    """A line about classes that differ only in upper and lower case; none if there are none."""
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold(), []).append(name)
    alike = [" and ".join(group) for group in folded.values() if len(group) > 1]
    if not alike:
        return []
    more = f" and {counted(len(alike) - 1, 'other pair')}" if len(alike) > 1 else ""
    return [f"{alike[0]}{more} are different classes, though only upper and lower case differs"]


def unlike(name: str, known: Iterable[str], where: str = "train") -> str:
    """` (train has cat)` for a name that differs from one that is known there only in case."""
    same = next((other for other in known if other.casefold() == name.casefold()), None)
    return "" if same is None else f" ({where} has {same})"
