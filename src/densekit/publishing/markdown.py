"""Markdown of a model card: its template, its front matter, and cells that any class name may stand in."""

from collections.abc import Mapping
from typing import Any

import jinja2
import yaml


def front_matter_of(tree: Mapping[str, Any]) -> str:
    """`tree` as YAML, in its order."""
    return yaml.safe_dump(dict(tree), sort_keys=False).strip()


def cell(value: object) -> str:
    """Class names come from anywhere: nothing in them may end a cell, a line, or begin a tag."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*_[]|":
        text = text.replace(sign, f"\\{sign}")
    return text


def template() -> jinja2.Template:
    """Of a card; a name that is missing in it is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("densekit.publishing", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["commas"] = lambda count: f"{count:,}"
    environment.filters["cell"] = cell
    return environment.get_template("model_card.md")
