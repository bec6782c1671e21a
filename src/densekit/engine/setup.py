"""A recipe -> data, network and loaders, ready to train."""

from dataclasses import dataclass
from pathlib import Path

import torch

from densekit.config import AugmentConfig, Preprocessing, Recipe
from densekit.data import DataSet, Loader, load
from densekit.data.prepare import preprocessing_for
from densekit.data.split import divide
from densekit.errors import InvalidInput
from densekit.models import ImageClassifier, build
from densekit.weights.initial import start_from


@dataclass(frozen=True)
class Prepared:
    """What training needs."""

    recipe: Recipe
    data: DataSet
    preprocessing: Preprocessing
    model: ImageClassifier
    device: torch.device
    new: tuple[str, ...] = ()
    """Tensors that the recipe's `init` did not fill: a head for other classes."""

    def loader(self, split: str, augmentation: AugmentConfig | None = None) -> Loader:
        """Batches of a split; shuffled and augmented only with `augmentation`."""
        config = self.recipe.data
        return Loader(
            self.data.splits[split],
            self.preprocessing,
            self.recipe.batch_size if augmentation is not None else max(self.recipe.batch_size, 100),
            self.data.skipped,
            augmentation,
            seed=self.recipe.seed,
            device=self.device,
            workers=config.workers,
            max_pixels=config.max_pixels,
        )


def prepare(recipe: Recipe, data_dir: Path, *, start: bool = True) -> Prepared:
    """Loads and divides the data, fits the network to them, and seeds torch. The recipe comes back resolved.

    Without `start` the weights of `recipe.init` are not loaded, as a checkpoint will replace them.
    Raises BadData or InvalidInput for what does not fit together.
    """
    torch.manual_seed(recipe.seed)
    data = divide(load(recipe.data, data_dir), recipe.data)
    preprocessing = preprocessing_for(data, recipe.data)
    shape = {
        "in_channels": preprocessing.channels,
        "num_classes": len(data.classes),
        "image_size": preprocessing.size,
    }
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=shape)})
    device = device_named(recipe.device)
    model = build(recipe.model, recipe.plan)
    new: tuple[str, ...] = ()
    if start and recipe.init is not None:
        new = start_from(model, recipe.model, recipe.init, data.classes)
    return Prepared(recipe, data, preprocessing, placed(model, device), device, new)


def device_named(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises InvalidInput for what this machine has not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InvalidInput(f"device '{name}' cannot be used; this machine has {', '.join(here)}, or auto") from error
    return device


def placed(model: ImageClassifier, device: torch.device) -> ImageClassifier:
    """On its device, in channels_last: the faster layout for convolutions on CPUs and tensor cores."""
    return model.to(device).to(memory_format=torch.channels_last)
