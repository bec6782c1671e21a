"""Dotted keys, YAML and what people write -> validated settings, and errors in one line."""

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from densekit.config.data import DataConfig
from densekit.config.recipe import Recipe
from densekit.errors import InvalidInput, UnknownName
from densekit.parsing import Malformed
from densekit.setting_values import value_for


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """`recipe` with dotted keys replaced, e.g. {"optimizer.lr": "0.05"}; strings are read by `setting_values`.

    Raises UnknownName for a key that does not exist and InvalidInput for a value that does not fit.
    """
    tree = recipe.model_dump()
    owner: Any
    for key, value in settings.items():
        *path, last = key.split(".")
        node: dict[str, Any] = tree
        owner = recipe
        for part in path:
            below = node.get(part)
            node = below if isinstance(below, dict) else {}
            owner = getattr(owner, part, None)
        if last not in node or isinstance(node[last], dict):
            raise UnknownName("setting", key, dotted_keys(tree))
        node[last] = read_setting(type(owner), last, key, value)
    return recipe_from(tree)


def with_data_settings(config: DataConfig, settings: Mapping[str, Any]) -> DataConfig:
    """`config` with dotted keys below `data.` replaced. Raises UnknownName or InvalidInput."""
    known = {f"data.{key}" for key in DataConfig.model_fields}
    for key in settings:
        if key not in known:
            raise UnknownName("setting of data", key, known)
    fields = {key: key.removeprefix("data.") for key in settings}
    values = {field: read_setting(DataConfig, field, key, settings[key]) for key, field in fields.items()}
    try:
        return DataConfig.model_validate(config.model_dump() | values)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error


def read_setting(model: type[BaseModel], field: str, key: str, given: Any) -> Any:
    """A string as `setting_values` reads it for that field, anything else as it is. Raises InvalidInput."""
    if not isinstance(given, str):
        return given
    try:
        return value_for(model, field, given)
    except Malformed as error:
        raise InvalidInput(f"{key}={given[:80]}: {error}; write a list like [0.5, 0.75]") from error


def recipe_from(tree: Mapping[str, Any]) -> Recipe:
    """Raises InvalidInput with every fault in one line."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error


_FAULTS_SHOWN = 8


_SHORT = reprlib.Repr()


def describe(error: ValidationError) -> str:
    """Pydantic's findings in one line: key, what was given, the rule."""
    faults = []
    found = error.errors(include_url=False, include_context=False)
    for fault in found[:_FAULTS_SHOWN]:
        # The discriminator of a union is part of pydantic's path but of no key that a user writes.
        key = ".".join(str(part) for part in fault["loc"] if part not in {"densenet", "resnet", "torchvision", "timm"})
        message = fault["msg"].removeprefix("Value error, ")
        given = "" if isinstance(fault["input"], dict) else f"={_shortened(fault['input'])}"
        if fault["type"] == "string_type":
            message += "; in YAML, put it in quotes"
        faults.append(f"{key}{given}: {message}" if key else message)
    if len(found) > len(faults):
        faults.append(f"and {len(found) - len(faults):,} more")
    return "invalid setting: " + "; ".join(faults)


def _shortened(value: Any) -> str:
    shown = _SHORT.repr(value)
    return shown[1:-1] if isinstance(value, str) else shown


def dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key that --set accepts."""
    keys: list[str] = []
    for key, value in tree.items():
        keys += dotted_keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping, as a YAML file gives it, as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
