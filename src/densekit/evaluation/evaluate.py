"""`densekit evaluate` as a function."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from densekit.config import DataConfig, with_data_settings
from densekit.data import DataSet, Images, Loader
from densekit.data import load as load_data
from densekit.data.sets import EncodedImages, FileImages, SkipList, groups_of, relabelled
from densekit.data.sources.class_names import unlike
from densekit.data.sources.expected import Expected
from densekit.data.sources.registry import missing
from densekit.data.together import SplitImages
from densekit.default_dtype import float32_default
from densekit.distributed.process_group import init_distributed
from densekit.errors import BadData, InvalidInput
from densekit.evaluation.held_out import is_own, to_measure
from densekit.evaluation.output_files import Read, check_out, keeping_scores, write_files
from densekit.folders import data_folder
from densekit.formatting import counted, listed
from densekit.inference.load import load
from densekit.metrics.evaluation_loop import evaluate as measure
from densekit.metrics.intervals import with_intervals
from densekit.metrics.task import Result, task_of
from densekit.terminal import display_of
from densekit.weights import ModelCard, resolve_revision


@float32_default()
def evaluate(
    model: str | Path,
    data: str | Path | None = None,
    *,
    split: str | None = None,
    ten_crop: bool = False,
    batch_size: int = 100,
    data_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Result:
    """Evaluate a model on a split of a data set.

    Images that the model was trained or validated with are left out, with a message, unless a split of its own training
    data is asked for.

    Args:
        model: MODEL of the command line: a run, a model folder, an exported file, a shipped model's name, or
            hf:OWNER/NAME.
        data: DATA of the command line. None: the data it was trained on.
        split: train, val, test or all. None: test, or all images of a folder without splits.
        ten_crop: average over ten crops of each image (four corners and the centre, each mirrored).
        batch_size: images per batch; changes no result but for rounding.
        data_dir: where data sets are kept.
        settings: dotted keys, such as `data.image_root`.
        out: a folder for report.html, metrics.json and predictions.csv (a row an image): new, empty, or of an earlier
            evaluation. None: nothing is written.
        console: what to write to. None: standard error.

    Returns:
        Metrics with 95 % intervals; a `MultiLabelResult` for several labels or one 0/1 label.

    Raises:
        BadData: the classes do not match, or no image is left.
        BadWeights: a model that is missing or damaged.
        InvalidInput: unknown split or settings, or an `out` that holds other files.
    """
    data = None if data is None else str(data)
    with init_distributed() as world:
        if out is not None:
            world.run_on_main(lambda: check_out(out))
        model = world.run_on_main(
            lambda: resolve_revision(model)
        )  # or a push in between would give them different weights
        classifier = load(model)
        card = classifier.card
        if data is None and card.data is None:
            raise InvalidInput(f"{model} does not say what it was trained on; name DATA")
        config = card.data if is_own(card, data) and card.data is not None else config_of(str(data), card.data)
        config = with_data_settings(config, settings or {})
        refuse_turned(card, config)
        if data is None and (gone := missing(config)) is not None:
            raise BadData(f"{gone[1]}, which {model} was trained on, is not there; name its new place, or other DATA")
        with world.first_of_host_first():
            loaded = load_data(config, data_folder(data_dir), expected=expected_of(card, config.source))
        named = loaded.classes
        loaded, notes = with_classes_of(card, loaded, str(model))
        place = data_folder(data_dir)
        chosen = to_measure(model, card, loaded, config, split, data_dir=place, settings=settings or {})
        images, display = chosen.images, display_of(console, leads=world.is_main)
        for note in (*notes, *chosen.notes, *without_images(chosen.split, images, card.classes, named)):
            display.log(note)
        if ten_crop and not isinstance(images, EncodedImages):
            raise InvalidInput(
                f"--ten-crop needs photographs larger than the input; {loaded.name} has images of one size"
            )
        loader = Loader(
            images,
            card.preprocessing,
            batch_size // 10 if ten_crop else batch_size,
            device=classifier.device,
            workers=config.workers,
            max_pixels=config.max_pixels,
            ten_crop=ten_crop,
            rank=world.rank,
            size=world.size,
        )
        for remark in loaded.remarks():
            display.log(remark)
        task = task_of(card, config.positive)
        with display.evaluating(chosen.split, len(images)) as advance:
            result, records = measure(
                classifier.model,
                loader,
                task=task if out is None else keeping_scores(task),
                names=(str(model), loaded.name, chosen.split),
                skipped=_skipped_of(images, loaded.skipped),
                world=world,
                advance=advance,
            )
        result = with_intervals(result, records, groups_of(images))
        if out is not None:
            said = (*notes, *chosen.notes, *loaded.remarks())
            read = Read(config, expected_of(card, config.source))
            world.run_on_main(
                lambda: write_files(out, result, records, classifier, chosen, read, said, ten_crop=ten_crop)
            )
        return result


def config_of(source: str, trained: DataConfig | None) -> DataConfig:
    """Of other data. A table stands by itself; of the Hub's data sets the training settings name the columns."""
    if trained is not None and source.startswith("hf:") and trained.source.startswith("hf:"):
        return trained.model_copy(update={"source": source})
    return DataConfig(source=source, stratify=True)


def refuse_turned(card: ModelCard, config: DataConfig) -> None:
    """Raises InvalidInput where the label that a model learned would be read the other way round in its own data."""
    if card.task != "multi-label" or card.data is None or not is_own(card, config.source):
        return
    if config.positive != card.data.positive:
        learned = "without it" if card.data.positive is None else f"with data.positive={card.data.positive}"
        raise InvalidInput(
            f"data.positive={config.positive} is not how these data were read for training ({learned}), and would turn "
            f"{listed(list(card.classes))} round; leave it out"
        )


def expected_of(card: ModelCard, source: str) -> Expected:
    """What the model tells of DATA; of the data it was trained on, their settings tell all."""
    if is_own(card, source):
        return Expected()
    return Expected(card.classes, card.task == "multi-label", card.data)


def without_images(split: str, images: Images, classes: Sequence[str], named: Sequence[str]) -> tuple[str, ...]:
    """A line about those of the model's `classes` that the data name, though this split has no image of them."""
    labels = images.labels
    tested = torch.bincount(labels, minlength=len(classes)) > 0 if labels.ndim == 1 else (~labels.isnan()).any(0)
    lacking = [name for name, known in zip(classes, tested.tolist(), strict=True) if not known and name in named]
    if not lacking:
        return ()
    number = counted(len(lacking), "class", "classes")
    return (f"the {split} images are of none of these {number}, not tested: {listed(lacking)}",)


def _skipped_of(images: Images, skipped: SkipList) -> SkipList:
    """Only the bad files of this split's folder: those of others say nothing about this result."""
    own = SkipList(skipped.budget)
    if isinstance(images, SplitImages):
        own.files = dict(skipped.files)
    elif isinstance(images, FileImages):
        own.files = {path: error for path, error in skipped.files.items() if path.is_relative_to(images.root)}
    return own


def with_classes_of(card: ModelCard, data: DataSet, model: str) -> tuple[DataSet, tuple[str, ...]]:
    """`data` labelled by the model's classes, matched by name, and what to tell people of classes it lacks.

    Raises BadData where the data have a class that the model does not know, or another number of labels an image.
    """
    if data.multi_label != (card.task == "multi-label"):
        kinds = ("one label", "several labels") if data.multi_label else ("several labels", "one label")
        raise BadData(
            f"{model} gives an image {kinds[0]}, and {data.name} has {kinds[1]} an image; name data like its own"
        )
    if card.classes == data.classes:
        return data, ()
    if data.multi_label and len(card.classes) == len(data.classes) == 1:
        note = f"{data.classes[0]} of {data.name} is compared with {card.classes[0]} of {model}"
        return replace(data, classes=card.classes), (note,)
    unknown = [name for name in data.classes if name not in card.classes]
    if unknown:
        odd = ", ".join(name + unlike(name, card.classes, "the model") for name in unknown[:5])
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        raise BadData(
            f"the classes of {data.name} are not those of {model}, which does not know {odd}{more}; name its folders "
            f"or labels after the model's classes ({listed(card.classes)}), leave these out, or train on these data"
        )
    at = torch.tensor([card.classes.index(name) for name in data.classes])
    splits = {
        name: relabelled(images, _moved(images.labels, at, len(card.classes))) for name, images in data.splits.items()
    }
    lacking = [name for name in card.classes if name not in data.classes]
    shown = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
    note = (
        f"{data.name} lacks {len(lacking)} of the {len(card.classes)} classes of {model}, which are not tested: {shown}"
    )
    return replace(data, classes=card.classes, splits=splits), (note,) if lacking else ()


def _moved(labels: Tensor, at: Tensor, classes: int) -> Tensor:
    """Labels of classes that stand at the places `at` among more: (N,), or (N, classes) with NaN for the others."""
    if labels.ndim == 1:
        return at[labels]
    moved = torch.full((len(labels), classes), torch.nan)
    moved[:, at] = labels
    return moved
