"""The text of a setting -> its value, by the type of the field that it is for.

Text is never read as YAML: `no`, `1e3`, `#` and a space stay what they are. Numbers and switches are read by pydantic.
Only structures, such as lists of numbers, are written in YAML.
"""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from densekit.parsing import parse_yaml

_NONE = ("", "null", "~")


def value_for(model: type[BaseModel], field: str, text: str) -> Any:
    """What `text` means for a field of `model`, for pydantic to validate.

    - Text, also one of several words: `text` as it stands.
    - Several texts, such as columns: separated by commas, or a YAML list in brackets, for names with a comma.
    - Numbers and switches: `text`, which pydantic reads.
    - Anything else: YAML.

    Where a field may have no value, an empty text gives None, and but for free text null does, too.

    Raises:
        parsing.Malformed: text that is not YAML where it has to be.
    """
    types, optional = _members(model.model_fields[field].annotation)
    free = types <= {str}
    if optional and (not text if free else text.strip().lower() in _NONE):
        return None
    if free or all(_is_scalar(kind) for kind in types):
        return text
    if all(_is_texts(kind) for kind in types):
        if text.lstrip().startswith("["):
            return parse_yaml(text, as_text=True)
        return [part.strip() for part in text.split(",")] if text.strip() else []
    return parse_yaml(text)


def _members(annotation: Any) -> tuple[set[Any], bool]:
    """The types that a field may have besides None, and whether it may be None."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) not in (Union, UnionType):
        return {annotation}, False
    found = [_members(member) for member in get_args(annotation)]
    types = set().union(*(types for types, _ in found))
    return types - {NoneType}, NoneType in types or any(optional for _, optional in found)


def _is_scalar(kind: Any) -> bool:
    return kind in (int, float, bool) or _is_text(kind)


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))


def _is_texts(kind: Any) -> bool:
    """Whether it is a tuple of texts, of whatever number."""
    if get_origin(kind) is not tuple:
        return False
    members, _ = _members(get_args(kind)[0])
    return all(map(_is_text, members)) and get_args(kind)[1:] == (...,)
