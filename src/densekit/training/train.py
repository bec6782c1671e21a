"""`densekit train` as a function."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit import threads
from densekit.config import Recipe
from densekit.data.sources.registry import short_name
from densekit.default_dtype import float32_default
from densekit.distributed.process_group import init_distributed
from densekit.folders import data_folder
from densekit.models.cost import cost_of
from densekit.runs import run_folder
from densekit.runs.run_folder import claim_folder
from densekit.runs.tracking import require
from densekit.terminal import display_of
from densekit.training.compose import requested
from densekit.training.confirmation import Ask
from densekit.training.plan_selection import choose
from densekit.training.request import Request, command_of, prepare_run
from densekit.training.resume import resume_run
from densekit.training.run import Run
from densekit.training.run_estimate import estimate_run
from densekit.training.session import start_facts, train_and_report
from densekit.training.setup import TrainContext


@float32_default()
def train(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    init: str | Path | None = None,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
    ask: Ask | None = None,
) -> Run:
    """Trains on DATA and reports. What is left open is decided by the data and the machine, and said in the plan.

    Started by torchrun, all its processes train one network.

    Args:
        data: DATA of the command line: a data set's name, a folder, csv:FILE, ...
        model: a network's name. None: decided.
        recipe: a recipe's name. None: decided.
        epochs: passes over the training images. None: decided, or the recipe's.
        out: a new folder. None: below runs/.
        seed: of all random choices. None: 0.
        data_dir: where data sets are kept.
        init: weights to start from; "none" for none. None: decided, where `recipe` is None or finetune.
        config: a YAML file of settings.
        settings: dotted keys, which overrule `config`.
        console: what to write to. None: standard error.
        ask: is shown a question before a run that is expensive, and says whether to go on. None: a warning.

    Returns:
        The run folder and the result on the reported split.

    Raises:
        InvalidInput: what does not fit together, does not fit into memory, or was declined.
        BadData: data that are missing or unusable.
        BadWeights: weights likewise.
        Diverged: the loss did, and no rollback is left.
        Interrupted: after ctrl-C, with the state saved.
        PeerLost: another process of the run has ended.
    """
    options = {"model": model, "recipe": recipe, "epochs": epochs, "out": out, "seed": seed, "data_dir": data_dir}
    words = command_of(str(data), options | {"init": init, "config": config}, settings or {})
    first, request = requested(
        data,
        model=model,
        recipe=recipe,
        epochs=epochs,
        seed=seed,
        init=init,
        config=config,
        settings=settings,
        command=words,
        ask=ask,
    )
    return train_recipe(first, out=out, data_dir=data_dir, console=console, request=request)


@float32_default()
def train_recipe(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    console: Console | None = None,
    request: Request | None = None,
) -> Run:
    """`train` for a recipe that is there already; `request` resolves what is open in it, and asks what it may cost."""
    with init_distributed() as world:
        given = Path(out) if out else None
        name = short_name(recipe.data.source)
        begun = world.run_on_main(lambda: _begun(given, name, world.launch))
        if begun is not None:
            return resume_run(begun, world, {}, data_dir, console, accept_changes=False)
        world.run_on_main(lambda: require(recipe.trackers))  # before a minute goes into preparing
        display = display_of(console, leads=world.is_main)
        prepared, decisions = prepare_run(recipe, request, data_folder(data_dir), world, display)
        # Before there is a folder: a network that does not suit the images fails here.
        cost = cost_of(prepared.recipe.model)
        if request is not None:
            world.run_on_main(lambda: request.check_possible(prepared, cost))
        with threads.suitable(cost.macs, prepared.recipe.batch_size):
            prepared, choice = choose(prepared, cost.macs, display.phase)
            forecast = replace(estimate_run(prepared, choice, cost), decided=tuple((d.name, str(d)) for d in decisions))
            if request is not None:
                world.run_on_main(lambda: request.check_cost(forecast, prepared, display.log))
            name = f"{name}-{prepared.recipe.model.name}"
            folder = world.run_on_main(lambda: given or claim_folder(Path("runs"), name))
            with ExitStack() as claim:
                world.run_on_main(lambda: _create(folder, prepared, data_dir, claim))
                display.facts(f"{prepared.recipe.model.name} on {prepared.data.name} -> {folder}", forecast.rows())
                return train_and_report(prepared, folder, display, None)


def _begun(out: Path | None, name: str, launch: str) -> Path | None:
    """The run that these processes had begun before torchrun started them again. Raises InvalidInput for another's."""
    if out:
        if run_folder.belongs_to(out, launch.partition("/")[0]):
            return out
        run_folder.require_none(out)  # before a minute goes into preparing
        return None
    # Of its very call: a program may train several networks, and which one this is no name says.
    places = Path("runs").glob(f"{escape(name.replace(':', '-'))}*")
    return next((folder for folder in places if run_folder.belongs_to(folder, launch)), None)


def _create(folder: Path, prepared: TrainContext, data_dir: str | Path | None, claim: ExitStack) -> None:
    """Keeps the folder to this process, as long as `claim` is open, before anything is written in it."""
    claim.enter_context(run_folder.claimed(folder))
    run_folder.create(folder, prepared.recipe, prepared.data, **start_facts(prepared.world, data_dir))
