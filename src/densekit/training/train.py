"""`densekit train` and `densekit resume` as functions."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit import atomic, threads
from densekit.config import ModelConfig, Recipe, flatten, with_settings
from densekit.data.loader import worker_lost
from densekit.data.sources.registry import missing, short_name
from densekit.default_dtype import float32_default
from densekit.distributed.process_group import ALONE, World, joined, restarts
from densekit.errors import BadData, DensekitError, Diverged, InvalidInput, ProofFailed, WorkerLost
from densekit.metrics.task import Result
from densekit.models import config_for
from densekit.models.cost import cost_of
from densekit.parsing import Malformed, read_yaml
from densekit.precision import repeatable
from densekit.recipes import recipe_for
from densekit.runs import run_folder
from densekit.runs.tracking import require, tracked
from densekit.terminal import Display
from densekit.training import resume_check
from densekit.training.checkpoint import Checkpoint, read_checkpoint, shapes_differ
from densekit.training.confirmation import Ask
from densekit.training.early_stopping import is_finished
from densekit.training.facts import FROM_SCRATCH
from densekit.training.plan_selection import choose
from densekit.training.report_page import write_report
from densekit.training.request import Request, command_of, given_by, prepare_run
from densekit.training.run import Run, claim_folder, data_folder, display_of
from densekit.training.run_estimate import forecast_of
from densekit.training.setup import Prepared, absolute_paths, prepare
from densekit.training.trainer import fit


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
    with joined() as world:
        given = Path(out) if out else None
        name = short_name(recipe.data.source)
        begun = world.from_leader(lambda: _begun(given, name, world.launch))
        if begun is not None:
            return _resume(begun, world, {}, data_dir, console, accept_changes=False)
        world.from_leader(lambda: require(recipe.trackers))  # before a minute goes into preparing
        display = display_of(console, world)
        prepared, decisions = prepare_run(recipe, request, data_folder(data_dir), world, display)
        # Before there is a folder: a network that does not suit the images fails here.
        cost = cost_of(prepared.recipe.model)
        if request is not None:
            world.from_leader(lambda: request.check_possible(prepared, cost))
        with threads.suitable(cost.macs, prepared.recipe.batch_size):
            prepared, choice = choose(prepared, cost.macs, display.phase)
            forecast = replace(forecast_of(prepared, choice, cost), decided=tuple((d.name, str(d)) for d in decisions))
            if request is not None:
                world.from_leader(lambda: request.check_cost(forecast, prepared, display.say))
            name = f"{name}-{prepared.recipe.model.name}"
            folder = world.from_leader(lambda: given or claim_folder(Path("runs"), name))
            with ExitStack() as claim:
                world.from_leader(lambda: _create(folder, prepared, data_dir, claim))
                display.forecast(forecast, f"{prepared.recipe.model.name} on {prepared.data.name} -> {folder}")
                return _finish(prepared, folder, display, None)


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


def _create(folder: Path, prepared: Prepared, data_dir: str | Path | None, claim: ExitStack) -> None:
    """Keeps the folder to this process, as long as `claim` is open, before anything is written in it."""
    claim.enter_context(run_folder.claimed(folder))
    run_folder.create(folder, prepared.recipe, prepared.data, **_facts(prepared.world, data_dir))


def _facts(world: World, data_dir: str | Path | None) -> dict[str, Any]:
    """What the events say of how these processes were started."""
    return {
        "processes": world.size,
        "launch": world.launch,
        "data_dir": str(data_folder(data_dir)) if data_dir else None,
    }


def _held(folder: Path, world: World) -> AbstractContextManager[None]:
    """For this process, if it is the one that writes, and there is a run."""
    return run_folder.held(folder) if world.leads and (folder / "config.yaml").exists() else nullcontext()


@float32_default()
def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    data_dir: str | Path | None = None,
    accept_changes: bool = False,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Run:
    """Goes on where `run` stopped, from its last checkpoint; a finished run is returned as it is.

    `settings` change the recipe. Raises ProofFailed when the recipe or the images are not those of the checkpoint,
    unless `accept_changes`; but data.max_bad, data.workers, checkpoint.*, divergence.rollbacks, early_stopping.* and
    trackers may change.
    Changed versions, threads or kernels are named and gone on with, as the result is the same but for rounding; a
    changed number of processes too, with the settings by which it is another training.
    """
    with joined() as world:
        changed = dict(settings or {}) | ({"epochs": epochs} if epochs is not None else {})
        return _resume(Path(run), world, changed, data_dir, console, accept_changes=accept_changes)


@float32_default()
def resume_until(run: Path, step: int, data_dir: str | Path | None, console: Console) -> None:
    """Goes on with `run` in this process alone and stops after that step, as a signal would: raises Interrupted."""
    _resume(run, ALONE, {}, data_dir, console, accept_changes=False, until=step)


def _resume(
    folder: Path,
    world: World,
    settings: Mapping[str, Any],
    data_dir: str | Path | None,
    console: Console | None,
    *,
    accept_changes: bool,
    until: int | None = None,
) -> Run:
    with _held(folder, world):
        recipe, checkpoint, result = world.from_leader(lambda: _stored(folder))
        before, recipe = recipe, absolute_paths(with_settings(recipe, settings))
        if recipe.epochs < before.epochs:
            raise InvalidInput(
                f"--epochs {recipe.epochs} is less than the {before.epochs} of {folder}; a run cannot shrink"
            )
        world.from_leader(lambda: require(recipe.trackers))
        display = display_of(console, world)
        if result is not None and checkpoint is not None and is_finished(recipe, checkpoint.document["progress"]):
            longer = f"--epochs {recipe.epochs + 10}"
            if result.early_stop is not None:
                longer = f"--set early_stopping.patience={result.early_stop['patience'] + 10}"
            display.say(f"{folder} is finished; to train it longer: {run_folder.resuming(folder)} {longer}")
            return Run(folder, result)
        data_dir = data_dir or world.from_leader(lambda: run_folder.data_dir_of(folder))
        _require_there(recipe, folder)
        prepared = prepare(recipe, data_folder(data_dir), world, start=checkpoint is None, phase=display.phase)
        if checkpoint is None:
            display.say(f"{folder} has no checkpoint yet; training starts anew")
            _record(folder, prepared)
            with threads.suitable(cost_of(prepared.recipe.model).macs, recipe.batch_size):
                return _finish(prepared, folder, display, None)
        then = checkpoint.document["made_by"]
        with threads.exactly(then["environment"]["threads"] if prepared.device.type == "cpu" else None):
            _require_same_network(checkpoint, prepared, folder)
            changes = resume_check.changes(then, resume_check.made_by(prepared))
            _compare(changes, folder, display, accept=accept_changes)
            if world.leads:
                facts = _facts(world, data_dir) | {"restarts": restarts(), "changes": changes.everything}
                run_folder.note(folder, "resume", **facts)
            _record(folder, prepared)
            return _finish(prepared, folder, display, checkpoint, until)


def _require_there(recipe: Recipe, folder: Path) -> None:
    """Raises BadData where the images of a run are no longer where they were."""
    if (gone := missing(recipe.data)) is not None:
        setting, path = gone
        raise BadData(
            f"{path}, which {folder} is trained on, is not there; put it back, or name its new place: "
            f"{run_folder.resuming(folder)} --set {setting}NEW"
        )


def _record(folder: Path, prepared: Prepared) -> None:
    if prepared.world.leads:
        with run_folder.writing(folder):
            run_folder.write_recipe(folder, prepared.recipe)


def _stored(folder: Path) -> tuple[Recipe, Checkpoint | None, Result | None]:
    recipe = run_folder.recipe_of(folder)
    event = run_folder.last_event(folder)
    if restarts() and event.get("event") == Diverged.__name__.lower():
        raise Diverged(event["reason"])  # as it would again: torchrun starts anew whatever fails
    last = folder / "checkpoints" / "last"
    for name in ("last", "best"):
        atomic.recover(folder / "checkpoints" / name)
    return recipe, read_checkpoint(last) if last.exists() else None, run_folder.result_of(folder)


def _require_same_network(checkpoint: Checkpoint, prepared: Prepared, folder: Path) -> None:
    """Raises ProofFailed where the weights fit no longer: what --accept-changes cannot help with."""
    before, now = checkpoint.classes, prepared.data.classes
    if before is not None and before != now:
        gone, new = ([name for name in names if name not in others] for names, others in ((before, now), (now, before)))
        told = [f"new: {', '.join(new[:5])}"] if new else []
        told += [f"gone: {', '.join(gone[:5])}"] if gone else []
        what = f"the classes have changed ({'; '.join(told) or 'their order'})"
    elif differing := shapes_differ(checkpoint, prepared.model):
        what = f"the network has changed ({differing})"
    else:
        return
    data = prepared.recipe.data.source
    raise ProofFailed(
        f"{folder} cannot go on: {what}, so its weights are those of another network; put that back, or train a new "
        f"run that starts from them: {shlex.join(['densekit', 'train', data, '--init', str(folder)])}"
    )


def _compare(changes: resume_check.Changes, folder: Path, display: Display, *, accept: bool) -> None:
    """Says what has changed since the checkpoint was written. Raises ProofFailed for what makes it another run."""
    other = (*changes.recipe, *changes.data)
    if other and not accept:
        raise ProofFailed(
            f"{folder} cannot go on as the same run, since these have changed: {'; '.join(other)}; put them back, or "
            "go on with what is there now: --accept-changes"
        )
    if changes.execution:
        display.say(f"not the same to the last bit as without a stop, for: {'; '.join(changes.execution)}")
    if changes.division:
        display.say(
            "from here on another training, not only other rounding: batch statistics or draws are over each process's "
            f"own images, with {'; '.join(changes.division)}"
        )


def _finish(
    prepared: Prepared, folder: Path, display: Display, checkpoint: Checkpoint | None, until: int | None = None
) -> Run:
    world = prepared.world
    if world.leads:
        with run_folder.writing(folder):
            run_folder.forget_result(folder)
    done = 0
    if checkpoint is not None:
        progress = checkpoint.document["progress"]
        done = progress["epoch"]
        again = f" after restart {restarts()}, as a process had ended" if restarts() else ""
        display.say(f"going on in epoch {done + 1} after step {progress['step']}{again}")
    with repeatable(prepared.device), tracked(folder, prepared.recipe, world, display, done) as tracking:
        try:
            with _explained(folder):
                result, records = fit(prepared, folder, display, checkpoint=checkpoint, until=until, tracking=tracking)
        except DensekitError as error:
            if world.leads:
                with suppress(DensekitError):  # a full disk must not hide what happened
                    run_folder.note(folder, type(error).__name__.lower(), reason=str(error))
            raise
        finally:
            if world.leads:
                with suppress(DensekitError), run_folder.writing(folder):
                    run_folder.write_skipped(folder, prepared.data)
        if world.leads:
            with run_folder.writing(folder):
                report = write_report(folder, prepared, result, records)
                run_folder.write_result(folder, result)  # last: it says that all is there
                run_folder.note(folder, "finish", **{prepared.task.metric: result.score})
            tracking.result(result, report)
    return Run(folder, result)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (WorkerLost, RuntimeError) as error:
        # torch's handler of SIGCHLD raises wherever the process is at that moment, not only where it reads.
        lost = error if isinstance(error, WorkerLost) else worker_lost(error)
        if lost is None:
            raise
        raise WorkerLost(
            f"{lost}; the last checkpoint is whole, go on from it with: {run_folder.resuming(folder)}"
        ) from error


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
