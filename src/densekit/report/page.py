"""A finished run -> RUN/report.html, one file that needs nothing else: its pictures, plots and style are inside."""

import base64
import io
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from densekit.data.decode import decode
from densekit.data.sets import ArrayImages, Images
from densekit.engine import Result, runs
from densekit.engine.progress import duration
from densekit.engine.setup import Prepared
from densekit.engine.task import Records
from densekit.errors import BadData, BadImage
from densekit.report import plots
from densekit.weights import atomic

_PICTURES = 16
_PAIRS = 12
_SMALL = 64  # pixels; smaller pictures are shown as squares of colour, not blurred
_LARGEST = 224  # pixels; enough for a sharp thumbnail on a dense screen, and light

SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Picture:
    """An image with what there is to say about it."""

    uri: str | None
    """data:...; none if it could not be read."""
    small: bool
    true: str
    name: str = ""
    """File name, or position in the split."""
    predicted: str = ""
    confidence: float = 0.0


def write_report(run: Path, prepared: Prepared, result: Result, records: Records) -> Path:
    """Writes RUN/plots/*.svg and RUN/report.html: one self-contained file, no network. Returns report.html's path.

    `result` and `records` are of the split `result.split` of `prepared.data`.
    """
    rows = runs.metrics(run)
    figures = {name: plots.svg(figure) for name, figure in _figures(rows, prepared, result)}
    (run / "plots").mkdir(exist_ok=True)
    for name, drawing in figures.items():
        atomic.write(run / "plots" / f"{name}.svg", drawing)
    config = run / "config.yaml"
    environment = run / "env.json"
    page = _template().render(
        result=result,
        data=_data_name(prepared, result),
        recipe=prepared.recipe,
        plots={name: _uri("svg+xml", drawing) for name, drawing in figures.items()},
        split=SPLITS[result.split],
        right=round(result.top1 * result.count),
        interval=wilson(round(result.top1 * result.count), result.count),
        commonest=max(row["count"] for row in result.per_class) / result.count,
        chance_loss=math.log(len(prepared.data.classes)),
        calibration=calibration_in_words(result, records),
        splits=[_split(name, images, result.split) for name, images in _in_order(prepared)],
        selection=selection_in_words(rows, prepared, result.split),
        about_curves=_about_curves(rows, prepared),
        most_numbered=plots.MOST_NUMBERED,
        pairs=confused_pairs(result),
        wrong=int((records.predicted != records.target).sum()),
        mistakes=list(_mistakes(prepared, result.split, records)),
        batch=_augmented(prepared),
        skipped=[(str(path), error.code, str(error)) for path, error in prepared.data.skipped.files.items()],
        trained_for=duration(rows[-1]["seconds"]) if rows else None,
        config=config.read_text() if config.exists() else "",
        environment=json.loads(environment.read_text()) if environment.exists() else {},
        run=shlex.quote(str(run)),
    )
    path = run / "report.html"
    # A file name need not be valid Unicode; a page must be.
    atomic.write(path, page.encode("utf-8", "replace"))
    return path


def wilson(right: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927): where the accuracy on other images of this kind probably lies."""
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def calibration_in_words(result: Result, records: Records) -> str:
    """What the calibration error means for somebody who reads the model's percentages."""
    sure, right = float(records.confidence.mean()), result.top1
    claim = f"On average it says it is {sure:.1%} sure, and it is right {right:.1%} of the time"
    if result.ece < 0.02:
        return f"{claim}: its percentages can be taken at their word."
    if abs(sure - right) < result.ece / 3:
        return f"{claim}, but by turns too sure and too modest: see how far its percentages can be trusted below."
    return f"{claim}: {'too sure of itself' if sure > right else 'more modest than it needs to be'}."


def selection_in_words(rows: Sequence[dict[str, Any]], prepared: Prepared, split: str) -> list[str]:
    """Which weights these are, what chose them, and what that means for the numbers."""
    recipe, validated = prepared.recipe, "val" in prepared.data.splits
    averaged = f", averaged over the last steps (EMA, decay {recipe.ema.decay:g})" if recipe.ema.decay else ""
    best = kept_epoch(rows, prepared)
    if best is not None:
        words = [f"The weights are those of epoch {best}, the most accurate on the validation images{averaged}."]
    else:
        words = [f"The weights are those of the last epoch{averaged}; no image chose them."]
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


def kept_epoch(rows: Sequence[dict[str, Any]], prepared: Prepared) -> int | None:
    """The epoch that validation chose; none if the last is kept whatever its accuracy."""
    known = [row for row in rows if "val_top1" in row]
    if prepared.recipe.select != "best" or not known:
        return None
    return int(max(known, key=lambda row: row["val_top1"])["epoch"])  # the first of equals, as training keeps it


def confused_pairs(result: Result) -> list[dict[str, Any]]:
    """The commonest mistakes: true class, answer, how often, and of how many."""
    counts = np.array(result.confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [
        {
            "true": result.per_class[i]["class"],
            "predicted": result.per_class[j]["class"],
            "count": int(counts[i, j]),
            "of": result.per_class[i]["count"],
        }
        for i, j in cells
        if counts[i, j]
    ]


def _figures(rows: Sequence[dict[str, Any]], prepared: Prepared, result: Result) -> Iterator[tuple[str, Figure]]:
    if rows:
        kept = kept_epoch(rows, prepared)
        yield "loss", plots.loss_curve(rows, kept)
        yield "accuracy", plots.accuracy_curve(rows, kept)
    yield "learning_rate", plots.rate_curve(prepared.recipe)
    yield "confusion", plots.confusion_matrix(result)
    yield "reliability", plots.reliability_diagram(result)


def _data_name(prepared: Prepared, result: Result) -> str:
    """Of a folder its own name: the path to it is in the recipe, and says little in a title."""
    if isinstance(prepared.data.splits["train"], ArrayImages):
        return result.data
    return Path(result.data).name or result.data


def _in_order(prepared: Prepared) -> list[tuple[str, Images]]:
    return [(name, prepared.data.splits[name]) for name in SPLITS if name in prepared.data.splits]


def _split(name: str, images: Images, reported: str) -> dict[str, Any]:
    uses = {
        "train": "the model learned from these",
        "val": "checked after each epoch",
        "test": "kept aside until the end",
    }
    return {"name": SPLITS[name], "count": len(images), "use": uses[name], "reported": name == reported}


def _about_curves(rows: Sequence[dict[str, Any]], prepared: Prepared) -> list[str]:
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


def _mistakes(prepared: Prepared, split: str, records: Records) -> Iterator[Picture]:
    """The wrong answers that it was surest of."""
    images, classes = prepared.data.splits[split], prepared.data.classes
    wrong = np.flatnonzero(records.predicted != records.target)
    names = images.names() if len(wrong) else []
    for row in wrong[np.argsort(-records.confidence[wrong], kind="stable")][:_PICTURES]:
        sample = int(records.sample[row])
        picture = _image(images, sample, prepared)
        yield Picture(
            uri=None if picture is None else _picture_uri(picture),
            small=picture is not None and max(picture.size) <= _SMALL,
            true=classes[records.target[row]],
            name=names[sample].rsplit("/", 1)[-1],  # its folder is its class
            predicted=classes[records.predicted[row]],
            confidence=float(records.confidence[row]),
        )


def _image(images: Images, sample: int, prepared: Prepared) -> Image.Image | None:
    """The image as people see it, whole; none for a file that has become unreadable since."""
    if isinstance(images, ArrayImages):
        return _from_pixels(images.pixels[sample])
    channels = 1 if prepared.preprocessing.channels == 1 else 3
    try:
        return decode(images.paths[sample], channels=channels, max_pixels=prepared.recipe.data.max_pixels).image
    except BadImage:
        return None


def _augmented(prepared: Prepared) -> list[Picture]:
    """The first training images as the network met them in its first epoch."""
    # The order and the random changes belong to the samples: a smaller batch holds the same images.
    loader = replace(prepared.loader("train", prepared.recipe.augment), batch_size=_PICTURES, workers=0)
    try:
        batch = next(loader.epoch(0), None)
    except BadData:  # more files have become unreadable since: no reason to go without a report
        batch = None
    if batch is None:
        return []
    mean, std = (torch.tensor(v)[:, None, None] for v in (prepared.preprocessing.mean, prepared.preprocessing.std))
    pixels = (batch.images.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    pictures = [_from_pixels(x) for x in pixels]
    return [
        Picture(_picture_uri(picture), max(picture.size) <= _SMALL, prepared.data.classes[target])
        for picture, target in zip(pictures, batch.targets.tolist(), strict=True)
    ]


def _from_pixels(pixels: Tensor) -> Image.Image:
    """(C, H, W) uint8; of many channels the first three, of two the first."""
    if len(pixels) < 3:
        return Image.fromarray(pixels[0].numpy())
    return Image.fromarray(pixels[:3].permute(1, 2, 0).contiguous().numpy())


def _picture_uri(image: Image.Image) -> str:
    if max(image.size) > _LARGEST:
        image = image.copy()
        image.thumbnail((_LARGEST, _LARGEST))
    kind, options = ("png", {}) if max(image.size) <= _SMALL else ("jpeg", {"quality": 85})
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return _uri(kind, buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _template() -> jinja2.Template:
    # Class names and paths come from anywhere: everything is escaped, and a name that is missing is an error.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}%"
    environment.filters["commas"] = lambda count: f"{count:,}"
    return environment.from_string(files("densekit.report").joinpath("template.html").read_text("utf-8"))
