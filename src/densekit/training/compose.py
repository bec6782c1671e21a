"""From the arguments of `train` to a recipe, and to a request that resolves what they leave open."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from densekit.config import ModelConfig, Recipe, flatten, with_settings
from densekit.errors import InvalidInput
from densekit.models import config_for
from densekit.parsing import Malformed, read_yaml
from densekit.recipes import recipe_for
from densekit.training.confirmation import Ask
from densekit.training.facts import FROM_SCRATCH
from densekit.training.request import Request, given_by
from densekit.training.setup import absolute_paths


def compose(
    data: str | Path,
    *,
    model: str | ModelConfig | None = None,
    recipe: str = "quick",
    epochs: int | None = None,
    seed: int | None = None,
    init: str | Path | None = None,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe by name, then `defaults`, the YAML file `config`, the named arguments, `settings`; paths are absolute.

    Raises UnknownName or InvalidInput.
    """
    network = config_for(model) if isinstance(model, str) else model
    composed = recipe_for(recipe, str(data), network)
    overrides = {**(defaults or {}), **_overrides(epochs, seed, init, config, settings)}
    if overrides.get("init") == FROM_SCRATCH:
        overrides["init"] = None
    return absolute_paths(with_settings(composed, overrides))


def _overrides(
    epochs: int | None,
    seed: int | None,
    init: str | Path | None,
    config: Path | None,
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the user has set, by dotted key; init as it was written."""
    named = {"epochs": epochs, "seed": seed, "init": None if init is None else str(init)}
    overrides = dict(_read_config(config)) if config else {}
    if "data.source" in overrides:  # the whole configuration of a run, perhaps of an older version
        overrides.setdefault("data.stratify", False)
        if str(overrides["data.source"]).startswith("csv:"):
            overrides.setdefault("data.binary", "classes")
    overrides |= {key: value for key, value in named.items() if value is not None}
    return overrides | dict(settings or {})


def requested(
    data: str | Path,
    *,
    command: tuple[str, ...],
    model: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    init: str | Path | None = None,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    ask: Ask | None = None,
) -> tuple[Recipe, Request]:
    """The arguments of `train` as a recipe, and as a request that resolves what they leave open in it.

    `command` are the words that ask for the same. Raises UnknownName or InvalidInput.
    """
    composed = partial(compose, data, epochs=epochs, seed=seed, init=init, config=config, settings=settings)
    first = composed(model=model, recipe=recipe or "quick")
    own = _overrides(epochs, seed, init, config, settings)
    network = first.model if model or own.keys() & {"model.name", "model.family"} else None
    return first, Request(composed, given_by(network, recipe, own, first), command, ask)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise InvalidInput(f"cannot read --config {path}: {error.strerror}") from error
    except Malformed as error:
        raise InvalidInput(f"cannot read --config {path}: {error}") from error
    if not isinstance(tree, dict):
        raise InvalidInput(f"--config {path} holds no settings; it needs keys such as optimizer: {{lr: 0.1}}")
    return flatten(tree)
