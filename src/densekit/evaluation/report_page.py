"""An evaluation -> report.html, one file that needs nothing else, in the form of a run's report."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from densekit import atomic
from densekit.data.sets import groups_of
from densekit.formatting import counted, printable
from densekit.metrics.task import Records, Result
from densekit.report import pictures, plots
from densekit.report.mistake_maps import with_maps
from densekit.report.pictures import Measured
from densekit.report.sections import KINDS, SPLITS
from densekit.runs import run_folder


@dataclass(frozen=True)
class Evaluated:
    """What was measured, and on what."""

    result: Result
    records: Records
    measured: Measured
    model: nn.Module
    """The network, in evaluation mode, for the maps of mistakes."""
    device: torch.device
    """Of `model`."""
    kind: str
    """single-label or multi-label."""
    source: str
    """DATA, as given or as the model names it."""
    notes: tuple[str, ...] = ()
    """What was said about the choice of the images."""
    ten_crop: bool = False


def write_evaluation(path: Path, done: Evaluated) -> None:
    """Writes the page to `path`. Raises OSError."""
    kind, result = KINDS[done.kind], done.result
    figures = {name: plots.svg(figure) for name, figure in kind.figures((), None, result, done.records)}
    split = SPLITS.get(result.split, "" if result.split == "all" else result.split)
    facts = kind.facts(done.measured, result, done.records)
    facts["mistakes"], facts["map_layer"] = with_maps(done.model, done.device, done.measured, facts["mistakes"])
    page = pictures.template(kind.TEMPLATE).render(
        facts,
        layout="evaluation.html",
        map_ground="the middle one of its ten crops" if done.ten_crop else "the image as the network sees it",
        result=result,
        model=printable(result.model if result.model.startswith("hf:") else Path(result.model).name or result.model),
        data=printable(result.data),
        split=split,
        about=dict(_about(done, split)),
        notes=[printable(note) for note in done.notes],
        plots={name: pictures.uri("svg+xml", drawing) for name, drawing in figures.items()},
        skipped=[(printable(row["path"]), row["code"], row["message"]) for row in result.skipped],
        environment=run_folder.environment(),
    )
    # A file name need not be valid Unicode; a page must be.
    atomic.write(path, page.encode("utf-8", "replace"))


def _about(done: Evaluated, split: str) -> Iterator[tuple[str, Any]]:
    result, preprocessing = done.result, done.measured.preprocessing
    groups = groups_of(done.measured.images)
    height, width = preprocessing.size
    yield "Model", printable(result.model)
    yield "Data", printable(done.source)
    yield "Split", split or "all images"
    yield "Images", f"{result.count:,}" + (f" in {counted(len(set(groups)), 'group')}" if groups is not None else "")
    crops = ", the mean of ten crops of each image" if done.ten_crop else ""
    yield "Input", f"{height} x {width}, {counted(preprocessing.channels, 'channel')}{crops}"
