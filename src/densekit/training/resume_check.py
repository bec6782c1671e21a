"""What a run has to stay for its continuation to be the same to the last bit, and what of it has changed."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from densekit.config import flatten, recipe_from
from densekit.errors import InvalidInput
from densekit.runs import run_folder
from densekit.training.setup import PLACES, TrainContext, absolute_paths

# Settings that decide when, where and from which processes the same numbers are computed, not which; and a threshold,
# which is chosen after training.
_FREE = (
    "epochs",
    "threshold",
    "checkpoint.",
    "data.workers",
    "data.max_bad",
    "divergence.rollbacks",
    "early_stopping.",
    "trackers",
)
_PLACES = tuple(f"data.{name}" for name in PLACES)
# Those that decide by which operations: as much a matter of the machine as of the recipe.
_EXECUTION = ("plan", "kernels", "device")
# Settings by which batch statistics or draws are over each process's own images: at other values than these, the number
# of processes changes more than rounding.
_UNDIVIDED = {
    "accumulate": 1,
    "sync_batch_norm": True,
    "augment.mixup": 0,
    "augment.cutmix": 0,
    "model.dropout_rate": 0,
    "model.survival": 1,
}
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
    """Versions, machine, threads, processes, plan: but for `division` the function is the same, its last bits may not
    be.
    """
    division: tuple[str, ...]
    """Settings, `what: value`, by which the changed number of processes makes it another training."""
    moved: tuple[str, ...] = ()
    """Where the images are, if they are the same as before."""

    @property
    def everything(self) -> list[str]:
        """All that has changed."""
        return [*self.recipe, *self.data, *self.execution, *self.moved]


def fingerprint_of(prepared: TrainContext) -> dict[str, Any]:
    """What a checkpoint says of the process that wrote it."""
    environment = run_folder.environment()
    return {
        "recipe": prepared.recipe.model_dump(mode="json"),
        "data": dict(prepared.fingerprint),
        "environment": {key: environment[key] for key in _FACTS} | {"processes": prepared.world.size},
    }


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compares two `fingerprint_of`."""
    with suppress(InvalidInput):  # settings that an older version did not have were at their defaults
        then = {**then, "recipe": absolute_paths(recipe_from(then["recipe"])).model_dump(mode="json")}
    recipe = flatten(now["recipe"])
    settings = differences(flatten(then["recipe"]), recipe)
    environment = differences(then["environment"], now["environment"])
    divided = (f"{key}: {recipe[key]}" for key, value in _UNDIVIDED.items() if recipe.get(key, value) != value)
    data = tuple(f"the {name} images" for name in differences(then["data"], now["data"]))
    moved = {} if data else {key: text for key, text in settings.items() if key in _PLACES}
    others = (text for key, text in settings.items() if not key.startswith((*_FREE, *_EXECUTION)) and key not in moved)
    return Changes(
        recipe=tuple(others),
        data=data,
        execution=(
            *environment.values(),
            *(text for key, text in settings.items() if key in _EXECUTION),
        ),
        division=tuple(divided) if "processes" in environment else (),
        moved=tuple(moved.values()),
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """`key: before -> now` by key, of flat mappings, in the order of `then`."""
    keys = [*then, *(key for key in now if key not in then)]
    return {key: f"{key}: {then.get(key)} -> {now.get(key)}" for key in keys if then.get(key) != now.get(key)}
