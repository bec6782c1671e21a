"""A recipe -> data, network and loaders, ready to train."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from densekit.config import AugmentConfig, Preprocessing, Recipe
from densekit.data import DataSet, Loader, load
from densekit.data.loader import leaves_one
from densekit.data.prepare import preprocessing_for
from densekit.data.sets import check_learnable, kept_hashes
from densekit.data.sources.registry import located, short_name
from densekit.data.split import divide
from densekit.devices import device_named, to_device
from densekit.distributed.process_group import ALONE, DistributedContext
from densekit.errors import BadData, InvalidInput
from densekit.metrics.task import Task, task_for
from densekit.models import DenseNet, ImageClassifier, build
from densekit.models.cost import needs_two_images
from densekit.ops import backends
from densekit.weights.image_hashes import Hashes
from densekit.weights.initial import Start, start_from
from densekit.weights.resolve import located_model

_LARGEST_SEED = 2**32 - 1

Phase = Callable[[str], AbstractContextManager[Any]]
"""What shows, while it lasts, what is done and takes a while."""


@dataclass(frozen=True)
class TrainContext:
    """What training needs."""

    recipe: Recipe
    data: DataSet
    preprocessing: Preprocessing
    task: Task
    model: ImageClassifier
    device: torch.device
    world: DistributedContext = ALONE
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """Of the images of each split."""
    hashes: Hashes = field(default_factory=dict)
    """Hashes of the images of each split; empty for more than 1 GB of images that nothing else has to read."""
    new: tuple[str, ...] = ()
    """Tensors that the recipe's `init` did not fill: a head for other classes."""
    adapted: tuple[str, ...] = ()
    """What was done to tensors of `init`: a first convolution for other channels."""

    def loader(self, split: str, augmentation: AugmentConfig | None = None) -> Loader:
        """Batches of a split; shuffled and augmented only with `augmentation`."""
        config = self.recipe.data
        return Loader(
            self.data.splits[split],
            self.preprocessing,
            self.recipe.batch_size if augmentation is not None else max(self.recipe.batch_size, 100),
            augmentation,
            seed=self.recipe.seed,
            device=self.device,
            workers=config.workers,
            max_pixels=config.max_pixels,
            rank=self.world.rank,
            size=self.world.size,
            join_last_image=self.recipe.join_last_image and augmentation is not None,
            shuffle_by_seed=self.recipe.shuffle_by_seed,
            balanced=self.recipe.sampling == "balanced" and augmentation is not None,
        )


PLACES = ("source", "image_root")
"""Settings of data that say where the images are, which is free to differ while they are the same images."""


def absolute_paths(recipe: Recipe) -> Recipe:
    """`recipe` with absolute paths to data and weights, for use from any working directory."""
    init = None if recipe.init is None else located_model(recipe.init)
    return recipe.model_copy(update={"data": located(recipe.data), "init": init})


def prepare(
    recipe: Recipe,
    data_dir: Path,
    world: DistributedContext = ALONE,
    *,
    start: bool = True,
    loaded: DataSet | None = None,
    phase: Phase = nullcontext,
) -> TrainContext:
    """Loads and divides the data, fits the network to them, and seeds torch. The recipe comes back resolved.

    Without `start` the weights of `recipe.init` are not loaded, as a checkpoint will replace them. `loaded` are the
    data where `read` has read them; `phase` shows what takes a while.
    Raises BadData or InvalidInput for what does not fit together.
    """
    if start and recipe.seed > _LARGEST_SEED:  # a run of an older version goes on
        raise InvalidInput(
            f"seed={recipe.seed} is not possible: torch draws initial weights by seeds to {_LARGEST_SEED}"
        )
    if start:
        recipe = recipe.model_copy(update={"data": recipe.data.as_trained()})
    torch.manual_seed(recipe.seed)
    loaded = loaded or read(recipe, data_dir, world, phase)
    check_learnable(loaded)
    with phase("dividing and fingerprinting the images"):
        data = divide(loaded, recipe.data)
        fingerprint = {name: images.fingerprint() for name, images in data.splits.items()}
    if recipe.early_stopping.patience is not None and "val" not in data.splits:
        raise InvalidInput(
            f"early_stopping.patience={recipe.early_stopping.patience} needs validation images, and {data.name} has "
            "none under data.protocol=final; hold some out with --set data.protocol=tune, or leave it out"
        )
    kept = {name: own for name, images in data.splits.items() if (own := kept_hashes(images)) is not None}
    # Not where the images are: hosts may keep the same ones in different folders.
    unplaced = recipe.model_copy(update={"data": recipe.data.model_copy(update=dict.fromkeys(PLACES))})
    odd = [
        rank for rank, theirs in enumerate(world.gather((unplaced, fingerprint))) if theirs != (unplaced, fingerprint)
    ]
    if odd:
        raise BadData(
            f"rank {', '.join(map(str, odd))} has other images or settings than rank {world.rank}; give all hosts the "
            "same settings and the same files"
        )
    with phase("measuring mean and deviation of the pixels"):
        preprocessing = preprocessing_for(data, recipe.data)
    shape = {
        "in_channels": preprocessing.channels,
        "num_classes": len(data.classes),
        "image_size": preprocessing.size,
    }
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=shape)})
    if start and leaves_one(len(data.splits["train"]), recipe.batch_size):
        recipe = recipe.model_copy(update={"join_last_image": True})
    if start and recipe.seed:
        recipe = recipe.model_copy(update={"shuffle_by_seed": True})
    device = device_named(recipe.device, world.local_rank)
    model = build(recipe.model, recipe.plan, recipe.kernels)
    if isinstance(model, DenseNet):
        for _, side in recipe.resize:
            model.check_size(side, side)
    _require_two_images(recipe, world)
    begun = Start((), ())
    if start and recipe.init is not None:
        with phase(f"loading weights of {recipe.init}"):
            begun = start_from(model, recipe.model, recipe.init, data.classes)
    task = task_for(data, recipe, device)
    hashes = kept if len(kept) == len(data.splits) else {}
    return TrainContext(
        recipe, data, preprocessing, task, to_device(model, device), device, world, fingerprint, hashes, *begun
    )


def read(recipe: Recipe, data_dir: Path, world: DistributedContext = ALONE, phase: Phase = nullcontext) -> DataSet:
    """The data as they are, not yet divided. Raises BadData or InvalidInput."""
    backends.check(recipe.kernels)
    with phase(f"reading {short_name(recipe.data.source)}"), world.first_of_host_first():
        return load(recipe.data, data_dir)


def _require_two_images(recipe: Recipe, world: DistributedContext) -> None:
    """Raises InvalidInput where each step would have one image, and batch norm one value a channel of it."""
    share = recipe.batch_size if recipe.batch_size < world.size else recipe.batch_size // world.size
    pooled = world.size > 1 and recipe.sync_batch_norm and recipe.batch_size >= world.size
    if share < 2 and not pooled and needs_two_images(recipe.model, recipe.model.image_size):
        height, width = recipe.model.image_size
        raise InvalidInput(
            f"batch_size={recipe.batch_size} gives batch norm one image, and the last maps of {recipe.model.name} at "
            f"{height}x{width} are one pixel: it needs two values; raise batch_size, or the image size"
        )
