"""`densekit evaluate` as a function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from densekit.api.run import data_folder, display_of, load
from densekit.config import DataConfig, describe, read_setting
from densekit.data import DataSet, Images, Loader
from densekit.data import load as load_data
from densekit.data.sets import EncodedImages, FileImages, SkipList
from densekit.data.split import divide
from densekit.engine import Result
from densekit.engine.evaluate import evaluate as measure
from densekit.engine.processes import joined
from densekit.errors import BadData, InvalidInput, UnknownName
from densekit.weights import ModelCard, pinned


def evaluate(
    model: str | Path,
    data: str | None = None,
    *,
    split: str | None = None,
    ten_crop: bool = False,
    batch_size: int = 100,
    data_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Result:
    """Metrics of MODEL on a split of DATA (none: the data it was trained on).

    `split` is train, val, test or all; by default test, or all images of a folder the model never saw.
    Raises BadData when the classes do not match.
    """
    with joined() as world:
        model = world.from_leader(lambda: pinned(model))  # or a push in between would give them different weights
        classifier = load(model)
        card = classifier.card
        if data is None and card.data is None:
            raise InvalidInput(f"{model} does not say what it was trained on; name DATA")
        own = card.data is not None and data in (None, card.data.source)
        config = card.data if own and card.data is not None else config_of(str(data), card.data)
        config = with_data_settings(config, settings or {})
        with world.first_of_host_first():
            loaded = load_data(config, data_folder(data_dir))
        check_classes(classifier.card, loaded, str(model))
        name, images = choose_split(loaded, config, split, own=own)
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
        display = display_of(console, world)
        for remark in loaded.remarks():
            display.say(remark)
        with display.evaluating(name, len(images)) as advance:
            result, _ = measure(
                classifier.model,
                loader,
                task=classifier.task,
                names=(str(model), loaded.name, name),
                skipped=_skipped_of(images, loaded.skipped),
                world=world,
                advance=advance,
            )
        return result


def config_of(source: str, trained: DataConfig | None) -> DataConfig:
    """Of other data; a table is read by the columns that the model's own table had, its paths from its own folder."""
    form = source.partition(":")[0]
    if trained is not None and form in ("csv", "hf") and trained.source.startswith(f"{form}:"):
        return trained.model_copy(update={"source": source, "image_root": None})
    return DataConfig(source=source)


def _skipped_of(images: Images, skipped: SkipList) -> SkipList:
    """Only the bad files of this split's folder: those of others say nothing about this result."""
    own = SkipList(skipped.budget)
    if isinstance(images, FileImages):
        own.files = {path: error for path, error in skipped.files.items() if path.is_relative_to(images.root)}
    return own


def choose_split(data: DataSet, config: DataConfig, split: str | None, *, own: bool) -> tuple[str, Images]:
    """The split of that name; none: the one to measure on. `own` data are those that the model was trained on.

    That is test, or all images of a folder that the model never saw. Raises UnknownName.
    """
    if split is None:
        split = "test" if own or "test" in data.splits else "val" if "val" in data.splits else "all"
    if split == "all":
        if set(data.splits) != {"train"}:
            raise InvalidInput(f"{data.name} brings its own splits, {', '.join(data.splits)}; choose one with --split")
        return split, data.splits["train"]
    if split in data.splits and split != "train":
        return split, data.splits[split]
    divided = divide(data, config)
    if split not in divided.splits:
        raise UnknownName("split", split, [*divided.splits, "all"])
    return split, divided.splits[split]


def check_classes(card: ModelCard, data: DataSet, model: str) -> None:
    """Raises BadData where the data's classes, or how many of them an image has, are not the model's."""
    if data.multi_label != (card.task == "multi-label"):
        kinds = ("one label", "several labels") if data.multi_label else ("several labels", "one label")
        raise BadData(
            f"{model} gives an image {kinds[0]}, and {data.name} has {kinds[1]} an image; name data like its own"
        )
    if card.classes != data.classes:
        odd = sorted(set(card.classes) ^ set(data.classes))[:5]
        raise BadData(
            f"the classes of {data.name} are not those of {model} ({', '.join(odd) or 'in another order'}); "
            "name its folders or labels after the model's classes, or train on these data"
        )


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
