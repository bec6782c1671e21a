"""A column of two values, of which one says that something is there and the other that it is not."""

import re
from collections.abc import Collection

from densekit.data.sources.table_file import number

# Absent, present; without case.
_PAIRS = (
    ("0", "1"),
    ("no", "yes"),
    ("n", "y"),
    ("false", "true"),
    ("f", "t"),
    ("negative", "positive"),
    ("neg", "pos"),
    ("absent", "present"),
    ("normal", "abnormal"),
    ("-", "+"),
)
_ABSENT = dict(_PAIRS)
_PRESENT = {present: absent for absent, present in _PAIRS}
_NEGATION = re.compile(r"(?:(?:no|not|non|without|absence of) |non(?=\w))(.+)")


def absent_and_present(values: Collection[str], positive: str | None = None) -> tuple[str | None, str | None] | None:
    """Which value says absent, and which present, as the column writes them; none where they are names of two classes.

    A column may have one of the two alone, as a table of healthy patients has; the other then is None.

    Args:
        values: The different values of the column, one or two.
        positive: The value that says present, where somebody decided so.
    """
    named = {_plain(value): value for value in values}
    pair = _pair_of(set(named))
    if pair is None or len(named) != len(values):
        return None
    absent, present = (named.get(word) for word in pair)
    turned = positive is not None and _plain(positive) == pair[0]
    return (present, absent) if turned else (absent, present)


def is_of_pair(value: str, values: Collection[str]) -> bool:
    """Whether `value` is one of `values`, in any spelling, or the opposite of the only one."""
    pair = _pair_of({_plain(each) for each in values})
    return pair is not None and _plain(value) in pair


def says_present(value: str) -> bool:
    """Whether a value says present in every column that has it, such as 1 or yes."""
    return _plain(value) in _PRESENT


def _pair_of(words: set[str]) -> tuple[str, str] | None:
    if len(words) == 1:
        (word,) = words
        return (word, _ABSENT[word]) if word in _ABSENT else (_PRESENT[word], word) if word in _PRESENT else None
    if len(words) != 2:
        return None
    for one, other in (sorted(words), sorted(words, reverse=True)):
        negated = _NEGATION.fullmatch(one)
        if _ABSENT.get(one) == other or (negated is not None and negated[1] == other):
            return one, other
    return None


def _plain(value: str) -> str:
    """Without case, with a space for hyphens and underscores; 1 for 1.0."""
    value_of = number(value)
    if value_of in (0, 1):
        return str(int(value_of))
    return " ".join(re.split(r"[\s_-]+", value.casefold())).strip() or value
