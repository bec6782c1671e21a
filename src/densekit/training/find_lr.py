"""`densekit lr` as a function."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from densekit import threads
from densekit.config import EmaConfig
from densekit.default_dtype import float32_default
from densekit.distributed.process_group import init_distributed
from densekit.folders import data_folder
from densekit.models.cost import cost_of
from densekit.terminal import display_of
from densekit.training.compose import requested
from densekit.training.lr_figure import check_figure_path, write_lr_figure
from densekit.training.lr_range_test import RateCurve, rate_curve
from densekit.training.request import command_of, prepare_run


@float32_default()
def find_lr(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    init: str | Path | None = None,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    min_lr: float = 1e-5,
    max_lr: float = 10.0,
    steps: int = 200,
    out: str | Path | None = None,
    console: Console | None = None,
) -> RateCurve:
    """Finds a learning rate for a run: a range test (Smith 2017) from the run's own recipe and initial weights.

    Args:
        data: DATA, as `train` takes it, and likewise:
        model: a network's name. None: decided, as `train` decides it.
        recipe: a recipe's name. None: likewise.
        epochs: of the run that is planned. None: likewise, or the recipe's.
        seed: of all random choices.
        data_dir: where data sets are kept.
        init: weights to start from; "none" for none. None: decided.
        config: a YAML file of settings.
        settings: dotted keys and their values.
        min_lr: the first rate.
        max_lr: the last rate; the test ends before, when the loss rises to four times its minimum.
        steps: updates between them, at rates that rise exponentially.
        out: a figure to write, .svg or .png.
        console: where decisions and progress are shown; standard error by default.

    Returns:
        Losses by rate, and `suggestion`: a tenth of the rate of the lowest loss, for `optimizer.lr`.

    Raises:
        InvalidInput: wrong arguments, or more memory than there is.
        BadData: the data cannot be used, or the loss is not finite from the start.
        BadWeights: weights likewise.

    No run folder is made, and neither torch's random state nor the plans measured on this machine are changed.
    """
    options = {"model": model, "recipe": recipe, "epochs": epochs, "seed": seed, "data_dir": data_dir, "init": init}
    options |= {"config": config, "out": out}
    composed, request = requested(
        data,
        model=model,
        recipe=recipe,
        epochs=epochs,
        seed=seed,
        init=init,
        config=config,
        settings=settings,
        command=command_of(str(data), options, settings or {}, verb="lr"),
    )
    if out is not None:
        check_figure_path(Path(out))
    with init_distributed() as world, torch.random.fork_rng():
        display = display_of(console, leads=world.is_main)
        prepared, decisions = prepare_run(composed, request, data_folder(data_dir), world, display)
        # The average of the weights is not needed.
        prepared = replace(prepared, recipe=prepared.recipe.model_copy(update={"ema": EmaConfig()}))
        if decisions:
            title = f"learning rates for {prepared.recipe.model.name} on {prepared.data.name}"
            display.facts(title, {decision.name: str(decision) for decision in decisions})
        cost = cost_of(prepared.recipe.model)
        world.run_on_main(lambda: request.check_possible(prepared, cost))
        with (
            threads.suitable(cost.macs, prepared.recipe.batch_size),
            display.counting("learning rates", steps) as advance,
        ):
            curve = rate_curve(prepared, min_lr=min_lr, max_lr=max_lr, steps=steps, advance=advance)
        if out is not None and world.is_main:
            write_lr_figure(curve, Path(out))
    return curve
