"""A finished run, and where runs, models and data are found."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from densekit.data import load as load_data
from densekit.data.sets import ArrayImages
from densekit.data.split import divide
from densekit.distributed.process_group import World
from densekit.folders import cache_folder, expanded
from densekit.inference.classifier import Classifier
from densekit.inference.exported_network import is_exported, load_exported
from densekit.metrics.task import Result
from densekit.runs import run_folder
from densekit.terminal import Display, Log


@dataclass(frozen=True)
class Run:
    """A finished training run on disk."""

    folder: Path
    result: Result
    """Metrics of the reported split, as measured at the end of training."""

    @property
    def report(self) -> Path:
        """The page with curves, metrics and mistakes."""
        return self.folder / "report.html"

    def classifier(self) -> Classifier:
        """The trained network with its classes and preprocessing."""
        return load(self.folder)

    def evaluate(
        self, data: str | Path | None = None, split: str | None = None, *, out: str | Path | None = None
    ) -> Result:
        """Measures again, on the reported split or another one; `out` is a folder for a report and predictions."""
        from densekit.evaluation.evaluate import evaluate  # which needs this module

        return evaluate(self.folder, data, split=split, out=out)


def load(source: str | Path, device: str = "auto") -> Classifier:
    """A classifier from a run folder, a model folder, a shipped model's name, an exported file, or hf:OWNER/NAME.

    Raises BadWeights, UnknownName, or InvalidInput where an exported file's runtime or the Hub's client is missing.
    """
    if is_exported(source):
        network, card = load_exported(source, torch.get_num_threads())
        return Classifier(network, card, torch.device("cpu"))
    return Classifier.load(source, device)


def data_folder(given: str | Path | None = None) -> Path:
    """--data-dir, else $DENSEKIT_DATA, else the user's cache folder; absolute."""
    return expanded(given or os.environ.get("DENSEKIT_DATA") or cache_folder()).absolute()


def free_folder(parent: Path, name: str) -> Path:
    """`parent/name`, or with a number where that exists."""
    name = name.replace(":", "-")
    taken = 1
    while os.path.lexists(parent / (name if taken == 1 else f"{name}-{taken}")):  # also a link that leads nowhere
        taken += 1
    return parent / (name if taken == 1 else f"{name}-{taken}")


def claim_folder(parent: Path, name: str) -> Path:
    """A new folder `parent/name`, or with a number, of this process alone: another may look at the same moment.

    Where none can be made, its path: who writes to it says what is wrong.
    """
    while True:
        folder = free_folder(parent, name)
        try:
            folder.parent.mkdir(exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if os.path.lexists(folder):
                continue
        except OSError:
            pass
        return folder


def write_samples(run: Path, count: int) -> list[Path]:
    """The first `count` images of a run's reported split as RUN/samples/NAME-true-CLASS.png; in-memory data only."""
    from torchvision.transforms.v2.functional import to_pil_image

    recipe = run_folder.recipe_of(run)
    data = divide(load_data(recipe.data, data_folder()), recipe.data)
    images = data.splits["test"]
    assert isinstance(images, ArrayImages)
    folder = run / "samples"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, pixels, label in zip(images.names()[:count], images.pixels, images.labels.tolist(), strict=False):
        path = folder / f"{name}-true-{data.classes[label]}.png"
        to_pil_image(pixels).save(path)
        paths.append(path)
    return paths


def display_of(console: Console | None, world: World) -> Display:
    """Of the process that speaks; the others have one that nobody sees."""
    return Display((console or Log()) if world.leads else Console(quiet=True))
