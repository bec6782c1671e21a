"""Writes docs/reference/cli.md, settings.md and the list of decisions: python -m tests.docs.reference.

`make docs` runs it, and a test fails where what is committed is not what it would write.
"""

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from densekit.cli.main import EXIT_STATUS, assemble
from densekit.config import DenseNetConfig, ExternalConfig, Recipe, ResNetConfig

DOCS = Path(__file__).parents[2] / "docs"
NOTE = "<!-- Written by tests/docs/reference.py; change the code, not this page. -->\n"


def pages() -> dict[str, str]:
    """Name below docs/ -> its text."""
    return {"reference/cli.md": cli(), "reference/settings.md": settings(), "decisions/index.md": decisions()}


def decisions() -> str:
    """A line for each, by number."""
    lines = [
        "# Decisions",
        "",
        NOTE,
        "One choice a page: what was decided, instead of what, and why. A newer page may replace an older one.",
        "",
    ]
    for path in sorted((DOCS / "decisions").glob("0*.md")):
        lines.append(f"- [{path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}]({path.name})")
    return "\n".join(lines) + "\n"


def cli() -> str:
    """Every verb with its arguments and options, as typer knows them."""
    root: Any = typer.main.get_command(assemble())
    lines = [
        "# Command line",
        "",
        NOTE,
        "`densekit VERB --help` says the same. Any verb takes `--debug`, for a traceback.",
    ]
    for name, command in root.commands.items():
        groups = getattr(command, "commands", None)
        if groups is None:
            lines += _verb(f"densekit {name}", command)
        else:
            for below, part in groups.items():
                lines += _verb(f"densekit {name} {below}", part)
    lines += ["", "## Exit status", "", "| | |", "|---|---|", "| 0 | done |", "| 1 | unforeseen |"]
    lines += [f"| {status} | {(kind.__doc__ or '').split(' (exit')[0]} |" for kind, status in EXIT_STATUS.items()]
    lines += ["| 130, 143 | stopped by a signal, after saving |"]
    return "\n".join(lines) + "\n"


def _verb(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name != "argument" and p.name != "help"]
    words = " ".join(_argument(p) for p in arguments)
    yield from ("", f"## {name}", "", f"`{name}{' ' + words if words else ''}{' [OPTIONS]' if options else ''}`", "")
    yield from (line.strip() for line in (command.help or "").splitlines())
    hints = get_type_hints(inspect.unwrap(command.callback))
    rows = [(_argument(p), p) for p in arguments] + [(_option(p, hints.get(p.name)), p) for p in options]
    if rows:
        yield from ("", "| | |", "|---|---|")
        for shown, parameter in rows:
            default = _default(parameter)
            help_ = (getattr(parameter, "help", "") or "").replace("|", "\\|")
            yield f"| `{shown}` | {help_}{f' Default: {default}.' if default else ''} |".replace("  ", " ")


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any, hint: Any) -> str:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    kinds = {int: "N", float: "X", Path: "PATH"}
    kind = next((kinds[part] for part in (hint, *get_args(hint)) if part in kinds), "TEXT")
    return f"{names} {parameter.metavar or kind}"


def _default(parameter: Any) -> str:
    value = parameter.default
    if getattr(parameter, "is_flag", True):  # arguments have none
        return ""
    if value in (None, "", ()) or callable(value) or "Default:" in (parameter.help or ""):
        return ""
    return f"`{value}`"


def settings() -> str:
    """Every key of a recipe, with its type, default and meaning."""
    lines = [
        "# Settings",
        "",
        NOTE,
        "Each is a key of `--set KEY=VALUE`, of a YAML file for `--config`, and of a run's `config.yaml`.",
        "Defaults are those of the configuration itself; [recipes](../training.md) change them.",
        "",
        "## The run",
        "",
        *_table(Recipe, ""),
    ]
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if name != "model" and isinstance(kind, type) and issubclass(kind, BaseModel):
            lines += ["", f"## {name}.*", "", kind.__doc__ or "", "", *_table(kind, f"{name}.")]
    families = {"densenet": DenseNetConfig, "resnet": ResNetConfig, "torchvision and timm": ExternalConfig}
    for family, kind in families.items():
        lines += ["", f"## model.*, {family}", "", kind.__doc__ or "", "", *_table(kind, "model.")]
    return "\n".join(lines) + "\n"


def _table(kind: type[BaseModel], prefix: str) -> Iterator[str]:
    yield from ("| key | values | default | |", "|---|---|---|---|")
    for name, field in kind.model_fields.items():
        shown = _type(field.annotation)
        if shown is None or name == "family":
            continue
        about = " ".join((field.description or "").split()).replace("|", "\\|")
        yield f"| `{prefix}{name}` | {shown}{_bounds(field)} | {_value(field)} | {about} |"


def _type(annotation: Any) -> str | None:
    """In words; nothing for what has a table of its own."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        parts = [_type(part) for part in inner if part is not type(None)]
        if None in parts:
            return None
        return " or ".join(str(part) for part in parts) + (" or nothing" if type(None) in inner else "")
    if origin is tuple:
        parts = [_type(part) for part in inner if part is not Ellipsis]
        return f"list of {parts[0]}" if Ellipsis in inner else f"[{', '.join(map(str, parts))}]"
    if hasattr(annotation, "__metadata__"):
        return _type(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
    return names.get(annotation, str(annotation))


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found = [
        f"{word} {getattr(rule, sign):g}"
        for rule in field.metadata
        for sign, word in signs.items()
        if hasattr(rule, sign)
    ]
    return f", {', '.join(found)}" if found else ""


def _value(field: FieldInfo) -> str:
    if field.is_required():
        return "set for you"
    value = field.default if field.default is not PydanticUndefined else None
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else str(list(value) if isinstance(value, tuple) else value)
    return f"`{text}`"


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
