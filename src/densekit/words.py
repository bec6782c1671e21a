"""How messages put things, in every room."""

from collections.abc import Sequence

_LISTED = 3


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1 channel, 3 channels, 1,000 classes."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str]) -> str:
    """The first of them, for an error."""
    return ", ".join(names[:_LISTED]) + (" and more" if len(names) > _LISTED else "")
