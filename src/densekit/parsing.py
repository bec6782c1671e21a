"""Text documents from anywhere, parsed within bounds on size, nesting and what references expand to."""

import json
from pathlib import Path
from typing import Any

import yaml

YAML_BYTES = 1 << 20
"""A recipe has about 2,500 bytes, a study as many for each arm."""
JSON_BYTES = 1 << 24
"""A model card with 100,000 class names has about 2 million bytes."""
_YAML_NODES = 200_000
_SCALAR_LENGTH = 1 << 16
"""Characters: reading a long number takes time that grows with the square of its length."""


class Malformed(ValueError):
    """A document that cannot be parsed, or is beyond the bounds; the message is one line."""


def read_text(path: Path, most: int) -> str:
    """The file's text. Raises OSError, or Malformed if it has more than `most` bytes or is not UTF-8."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise Malformed(f"it has more than {most:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"it is not UTF-8 (byte {error.start})") from error


def read_yaml(path: Path) -> Any:
    """`parse_yaml` of a file. Raises OSError or Malformed."""
    return parse_yaml(read_text(path, YAML_BYTES))


def read_json(path: Path) -> Any:
    """`parse_json` of a file. Raises OSError or Malformed."""
    return parse_json(read_text(path, JSON_BYTES))


def parse_json(text: str) -> Any:
    """The value of a JSON text. NaN and infinities, which older versions wrote, are None. Raises Malformed."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:
        raise Malformed(f"it is not JSON: {error}") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error


def parse_yaml(text: str, *, as_text: bool = False) -> Any:
    """The value of one YAML document; `as_text` leaves every scalar the text that it is.

    A key that stands twice is an error, because one of its values would be lost. Aliases count as often as they are
    used: a few lines of them can stand for billions of values. Raises Malformed.
    """
    loader = yaml.BaseLoader if as_text else yaml.SafeLoader
    try:
        node = yaml.compose(text, Loader=loader)
        if node is None:
            return None
        if _expanded_size(node, {}) > _YAML_NODES:
            raise Malformed(f"it expands to more than {_YAML_NODES:,} values; write fewer, or fewer aliases")
        return loader("").construct_document(node)
    except yaml.YAMLError as error:
        raise Malformed(f"it is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    except Malformed:
        raise
    except ValueError as error:  # such as a date that does not exist
        raise Malformed(f"it is not YAML: {error}") from error


def _expanded_size(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """Nodes below and with `node`, each alias counted in full. Raises Malformed for a cycle or a repeated key."""
    if node in sizes:
        if not sizes[node]:
            raise Malformed("an alias stands within what it refers to")
        return sizes[node]
    if isinstance(node, yaml.ScalarNode) and len(node.value) > _SCALAR_LENGTH:
        raise Malformed(f"a value has more than {_SCALAR_LENGTH:,} characters")
    sizes[node] = 0  # until it is known
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    sizes[node] = 1 + sum(_expanded_size(child, sizes) for child in children)
    return sizes[node]


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                raise Malformed(f"{key.value} stands twice, again in line {key.start_mark.line + 1}")
            seen.add((key.tag, key.value))
