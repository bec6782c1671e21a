"""A finished run -> RUN/report.html, one file that needs nothing else: its pictures, plots and style are inside."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from densekit import atomic
from densekit.config import Recipe
from densekit.data.sets import ArrayImages, Images, groups_of, label_names
from densekit.data.sources.registry import short_name
from densekit.errors import BadData, BadWeights
from densekit.formatting import duration, printable
from densekit.metrics.task import Records, Result, no_better
from densekit.report import pictures, plots
from densekit.report.mistake_maps import with_maps
from densekit.report.sections import KINDS, SPLITS
from densekit.runs import run_folder
from densekit.training.early_stopping import EarlyStop
from densekit.training.schedule import learning_rate
from densekit.training.setup import TrainContext
from densekit.weights import load_model
from densekit.weights.resolve import run_checkpoint


def write_report(run: Path, prepared: TrainContext, result: Result, records: Records) -> Path:
    """Writes RUN/plots/*.svg and RUN/report.html: one self-contained file, no network. Returns report.html's path.

    `result` and `records` are of the split `result.split` of `prepared.data`.
    """
    rows, kind = run_folder.metrics(run), KINDS[prepared.task.kind]
    drawn = dict(kind.figures(rows, kept_epoch(rows, prepared), result, records))
    drawn["learning_rate"] = _rate_curve(prepared.recipe, result.early_stop["epoch"] if result.early_stop else None)
    figures = {name: plots.svg(figure) for name, figure in drawn.items()}
    (run / "plots").mkdir(exist_ok=True)
    for name, drawing in figures.items():
        atomic.write(run / "plots" / f"{name}.svg", drawing)
    config = run / "config.yaml"
    measured = _measured(prepared, result)
    facts = kind.facts(measured, result, records)
    facts["mistakes"], facts["map_layer"] = _with_maps(run, prepared, measured, facts["mistakes"])
    page = pictures.template(kind.TEMPLATE).render(
        facts,
        layout="page.html",
        map_ground="the image as the network sees it",
        result=result,
        no_better=no_better(result),
        data=_data_name(prepared, result),
        recipe=prepared.recipe,
        plots={name: pictures.uri("svg+xml", drawing) for name, drawing in figures.items()},
        curves=kind.CURVES,
        split=SPLITS[result.split],
        splits=[_split(name, images, result.split) for name, images in _in_order(prepared)],
        selection=selection_in_words(rows, prepared, result),
        about_curves=_about_curves(rows, prepared),
        batch=_augmented(prepared),
        skipped=[(printable(path), error.code, str(error)) for path, error in prepared.data.skipped.files.items()],
        trained_for=duration(rows[-1]["seconds"]) if rows else None,
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        environment=run_folder.environment_of(run),
        run=shlex.quote(str(run)),
    )
    path = run / "report.html"
    # A file name need not be valid Unicode; a page must be.
    atomic.write(path, page.encode("utf-8", "replace"))
    return path


def _with_maps(
    run: Path, prepared: TrainContext, measured: pictures.Measured, mistakes: Sequence[pictures.Picture]
) -> tuple[list[pictures.Picture], str]:
    """By the run's reported checkpoint."""
    try:
        model, _ = load_model(run_checkpoint(run), "concat")
    except BadWeights:  # a missing checkpoint is no reason to go without a report
        return list(mistakes), ""
    return with_maps(model.to(prepared.device), prepared.device, measured, mistakes)


def _measured(prepared: TrainContext, result: Result) -> pictures.Measured:
    return pictures.Measured(
        prepared.data.splits[result.split],
        prepared.data.classes,
        prepared.preprocessing,
        prepared.recipe.data.max_pixels,
        prepared.task.decisions(),
        thresholds_chosen="val" in prepared.data.splits,
        chose_thresholds=result.split == "val",
        rule=prepared.task.rule,
    )


def selection_in_words(rows: Sequence[dict[str, Any]], prepared: TrainContext, result: Result) -> list[str]:
    """Which weights these are, what chose them, and what that means for the numbers."""
    recipe, validated, split = prepared.recipe, "val" in prepared.data.splits, result.split
    averaged = f", averaged over the last steps (EMA, decay {recipe.ema.decay:g})" if recipe.ema.decay else ""
    best = kept_epoch(rows, prepared)
    if best is not None:
        chosen = KINDS[prepared.task.kind].MOST_ACCURATE
        words = [f"The weights are those of epoch {best}, {chosen}{averaged}."]
    elif result.early_stop is not None:
        words = [f"The weights are those of the last epoch{averaged}; validation images chose when training ended."]
    else:
        words = [f"The weights are those of the last epoch{averaged}; no image chose them."]
    if result.early_stop is not None:
        said = EarlyStop(**result.early_stop).words()
        words.insert(0, f"{said[0].upper()}{said[1:]}.")
    if recipe.data.protocol == "final" and not validated:
        words.append("Nothing was held out for validation: the protocol is final, and trains on all training images.")
    if split == "test":
        words.append(
            "The test images were used once, after training, for the numbers of this page: they chose nothing."
        )
    elif split == "val" and best is not None:
        words.append("There is no test split, and the same validation images chose the weights: expect a little less.")
    elif split == "val":
        words.append("There is no test split; the numbers are of the validation images, which were not trained on.")
    else:
        words.append("The numbers are of the training images themselves: expect less on any others.")
    return words


def kept_epoch(rows: Sequence[dict[str, Any]], prepared: TrainContext) -> int | None:
    """The epoch that validation chose; none if the last is kept whatever its metric."""
    metric = f"val_{prepared.task.metric}"
    known = [row for row in rows if metric in row]
    if prepared.recipe.select != "best" or not known:
        return None
    return int(max(known, key=lambda row: row[metric])["epoch"])  # the first of equals, as training keeps it


def _data_name(prepared: TrainContext, result: Result) -> str:
    """Of a folder its own name: the path to it is in the recipe, and says little in a title."""
    if isinstance(prepared.data.splits["train"], ArrayImages):
        return result.data
    return short_name(result.data)


def _in_order(prepared: TrainContext) -> list[tuple[str, Images]]:
    return [(name, prepared.data.splits[name]) for name in SPLITS if name in prepared.data.splits]


def _split(name: str, images: Images, reported: str) -> dict[str, Any]:
    uses = {
        "train": "the model learned from these",
        "val": "checked after each epoch",
        "test": "kept aside until the end",
    }
    groups = groups_of(images)
    counts = {"count": len(images), "groups": None if groups is None else len(set(groups))}
    row = {"name": SPLITS[name], **counts, "use": uses[name]}
    return row | {"reported": name == reported}


def _about_curves(rows: Sequence[dict[str, Any]], prepared: TrainContext) -> list[str]:
    recipe = prepared.recipe
    words = ["Training numbers are taken while the weights still change, on augmented images"]
    if recipe.ema.decay and any("val_loss" in row for row in rows):
        words[0] += "; validation numbers are of the averaged weights, on unchanged images"
    words[0] += "."
    if recipe.label_smoothing:
        words.append(
            f"The training loss includes label smoothing ({recipe.label_smoothing:g}), so it cannot come near 0, and "
            "may stay above the validation loss, which has none."
        )
    return words


def _augmented(prepared: TrainContext) -> list[pictures.Picture]:
    """The first training images as the network met them in its first epoch."""
    # The order and the random changes belong to the samples: a smaller batch holds the same images.
    loader = replace(prepared.loader("train", prepared.recipe.augment), batch_size=pictures.MOST, workers=0)
    try:
        batch = next(loader.epoch(0), None)
    except BadData:  # more files have become unreadable since: no reason to go without a report
        batch = None
    if batch is None:
        return []
    mean, std = (torch.tensor(v)[:, None, None] for v in (prepared.preprocessing.mean, prepared.preprocessing.std))
    pixels = (batch.images.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    shown = [pictures.from_pixels(x) for x in pixels]
    return [
        pictures.Picture(
            pictures.picture_uri(picture), max(picture.size) <= pictures.SMALL, name or "of no known class"
        )
        for picture, name in zip(shown, label_names(batch.targets, prepared.data.classes, ", "), strict=True)
    ]


def _rate_curve(recipe: Recipe, stopped: int | None = None) -> Figure:
    """The schedule as it was followed, between epochs too; dotted what was cut off by a stop after `stopped` epochs."""
    figure, axes = plots.titled("Learning rate")
    done = np.linspace(0, 1, 400, endpoint=False)
    rates = np.array([learning_rate(recipe.schedule, recipe.optimizer.lr, t) for t in done])
    epochs = done * recipe.epochs
    followed = epochs < (recipe.epochs if stopped is None else stopped)
    if stopped is not None:
        axes.plot(epochs, rates, color=plots.RATE, lw=1.2, ls=":", label="not followed")
    axes.plot(epochs[followed], rates[followed], color=plots.RATE, lw=2, label="followed")
    if stopped is not None:
        axes.legend(frameon=False, labelcolor=plots.INK)
    axes.set_xlim(0, recipe.epochs)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    return figure
