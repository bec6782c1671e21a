"""What a run has to stay for its continuation to be the same to the last bit, and what of it has changed."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from densekit.config import flatten, recipe_from
from densekit.engine import runs
from densekit.engine.setup import Prepared
from densekit.errors import InvalidInput

# Settings that decide when, where and from which processes the same numbers are computed, not which.
_FREE = ("epochs", "checkpoint.", "data.workers", "data.max_bad", "divergence.rollbacks", "trackers")
# Those that decide by which operations: as much a matter of the machine as of the recipe.
_EXECUTION = ("plan", "device")
_FACTS = (
    "densekit",
    "python",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "processor",
    "cpu_capability",
    "kernels",
    "threads",
    "cuda",
)


@dataclass(frozen=True)
class Changes:
    """Between the process that wrote a checkpoint and this one; each for people, `what: before -> now`."""

    recipe: tuple[str, ...]
    data: tuple[str, ...]
    execution: tuple[str, ...]
    """Versions, machine, threads, plan: the function is the same, its last bits may not be."""


def made_by(prepared: Prepared) -> dict[str, Any]:
    """What a checkpoint says of the process that wrote it."""
    environment = runs.environment()
    return {
        "recipe": prepared.recipe.model_dump(mode="json"),
        "data": dict(prepared.fingerprint),
        "environment": {key: environment[key] for key in _FACTS} | {"processes": prepared.world.size},
    }


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compares two `made_by`."""
    with suppress(InvalidInput):  # settings that an older version did not have were at their defaults
        then = {**then, "recipe": recipe_from(then["recipe"]).model_dump(mode="json")}
    settings = differences(flatten(then["recipe"]), flatten(now["recipe"]))
    return Changes(
        recipe=tuple(text for key, text in settings.items() if not key.startswith((*_FREE, *_EXECUTION))),
        data=tuple(f"the {name} images" for name in differences(then["data"], now["data"])),
        execution=(
            *differences(then["environment"], now["environment"]).values(),
            *(text for key, text in settings.items() if key in _EXECUTION),
        ),
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """`key: before -> now` by key, of flat mappings, in the order of `then`."""
    keys = [*then, *(key for key in now if key not in then)]
    return {key: f"{key}: {then.get(key)} -> {now.get(key)}" for key in keys if then.get(key) != now.get(key)}
