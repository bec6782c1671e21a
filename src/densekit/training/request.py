"""What a user asked `train` for: which settings are open, what they come to for the data, and who may be asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from densekit.config import ModelConfig, Recipe
from densekit.data import DataSet
from densekit.data.native_size import native_size
from densekit.data.sets import ArrayImages
from densekit.data.sources.registry import is_in_memory
from densekit.distributed.process_group import DistributedContext
from densekit.errors import InvalidInput
from densekit.models.cost import Cost
from densekit.terminal import Display
from densekit.training.confirmation import Ask, Concern, hours, memory, settle, upscaling
from densekit.training.defaults import Decision, decide
from densekit.training.facts import FROM_SCRATCH, Given, facts_of
from densekit.training.leakage import leak
from densekit.training.plan_selection import least_memory, room, total_memory
from densekit.training.run_estimate import RunEstimate, memory_bytes
from densekit.training.setup import Phase, TrainContext, prepare, read
from densekit.weights import resolve_revision


class Compose(Protocol):
    """`training.compose.compose` for one DATA and one user's settings."""

    def __call__(
        self,
        *,
        model: str | ModelConfig | None = None,
        recipe: str = "quick",
        defaults: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """Below the user's settings a network, a recipe by name, and `defaults` by dotted key."""


@dataclass(frozen=True)
class Request:
    """One call of `train`."""

    compose: Compose
    given: Given
    command: tuple[str, ...]
    """The words of the command line that asks for the same."""
    ask: Ask | None = None

    def resolved(self, recipe: Recipe, loaded: DataSet, phase: Phase) -> tuple[Recipe, tuple[Decision, ...]]:
        """`recipe` with what the user left open, and the decisions. Raises InvalidInput, BadData or BadWeights."""
        if not self._open(recipe):
            return recipe, ()
        decided = decide(facts_of(loaded, recipe, self.given, phase), self.given)
        made = self.compose(model=decided.model, recipe=decided.recipe, defaults=decided.settings)
        return made, tuple(decided.reasons)

    def check_size(self, recipe: Recipe, loaded: DataSet, warn: Callable[[str], None]) -> None:
        """Asks where pictures would be scaled up. Raises InvalidInput for a no."""
        images = loaded.splits["train"]
        if not isinstance(images, ArrayImages):
            size = native_size(images, max_pixels=recipe.data.max_pixels)
            settle([upscaling(recipe, size)], self.command, self.ask, warn)

    def check_possible(self, prepared: TrainContext, cost: Cost) -> None:
        """Before anything is measured. Raises InvalidInput for more memory than there is, under any plan."""
        needed = memory_bytes(prepared.recipe, cost, least_memory(prepared))
        total = total_memory(prepared.device)
        settle([memory(needed, prepared.recipe, total=total, free=total)], self.command, None, lambda _: None)

    def check_cost(self, forecast: RunEstimate, prepared: TrainContext, warn: Callable[[str], None]) -> None:
        """Asks about memory and hours. Raises InvalidInput for a no, and for more memory than there is."""
        device = prepared.device
        concerns: list[Concern | None] = [
            memory(forecast.memory_bytes, prepared.recipe, total=total_memory(device), free=room(device)),
            hours(forecast, prepared.recipe),
        ]
        settle(concerns, self.command, self.ask, warn)

    def _open(self, recipe: Recipe) -> bool:
        """Named data sets have a recipe of their own, that of `quick`."""
        return not is_in_memory(recipe.data.source) or (self.given.recipe == "finetune" and self.given.init is None)


def given_by(model: ModelConfig | None, recipe: str | None, settings: Mapping[str, Any], composed: Recipe) -> Given:
    """From the arguments of `train`, and all settings by dotted key, those of its named arguments included.

    `composed` is a recipe with these settings, which has read their values.
    """
    init = str(settings["init"] or FROM_SCRATCH) if "init" in settings else None
    return Given(
        recipe,
        model,
        init,
        frozenset(settings),
        network={} if model else {key: value for key, value in settings.items() if key.startswith("model.")},
        batch_size=composed.batch_size if "batch_size" in settings else None,
        image_size=composed.data.image_size if "data.image_size" in settings else None,
        optimizer=composed.optimizer.name if "optimizer.name" in settings else None,
    )


def command_of(
    data: str, options: Mapping[str, Any], settings: Mapping[str, Any], *, verb: str = "train"
) -> tuple[str, ...]:
    """`densekit VERB` with these options, None left out."""
    words = ["densekit", verb, data]
    for name, value in options.items():
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    return tuple(words)


def prepare_run(
    recipe: Recipe, request: Request | None, data_dir: Path, world: DistributedContext, display: Display
) -> tuple[TrainContext, tuple[Decision, ...]]:
    """What `train` trains: `recipe` with what `request` leaves open decided, its data, and its network. A collective.

    Args:
        recipe: composed of what the user has set.
        request: None: nothing is open, and nobody is asked.
        data_dir: where data sets are kept.
        world: all processes of the run.
        display: where phases and warnings are shown.

    Returns:
        Data, network and resolved recipe, and the decisions.

    Raises:
        InvalidInput: what does not fit together, or was declined.
        BadData: data that are missing or unusable.
        BadWeights: weights likewise.
    """
    recipe = recipe.model_copy(update={"data": recipe.data.as_trained()})
    loaded = read(recipe, data_dir, world, display.phase)
    decisions: tuple[Decision, ...] = ()
    if request is not None:
        recipe, decisions = world.run_on_main(lambda: request.resolved(recipe, loaded, display.phase))
        world.run_on_main(lambda: request.check_size(recipe, loaded, display.log))
    _require_start(recipe)
    if recipe.init is not None:
        source = recipe.init
        recipe = recipe.model_copy(update={"init": world.run_on_main(lambda: resolve_revision(source))})
    prepared = prepare(recipe, data_dir, world, loaded=loaded, phase=display.phase)
    if recipe.init is not None:
        init = recipe.init
        note = world.run_on_main(lambda: leak(init, prepared.data))
        if note is not None:
            display.log(note)
    return prepared, decisions


def _require_start(recipe: Recipe) -> None:
    """Raises InvalidInput where a recipe is to fine-tune nothing: it would train from scratch, at rates for the end."""
    if recipe.name == "finetune" and recipe.init is None:
        raise InvalidInput(
            f"the recipe finetune needs weights to start from; name some for {recipe.model.name} with --init (a run or "
            "model folder, hf:OWNER/NAME, torchvision:NAME), or train from scratch with --recipe quick"
        )
