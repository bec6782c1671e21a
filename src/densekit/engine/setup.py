"""A recipe -> data, network and loaders, ready to train; and the plan that is shown before it starts."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from densekit.config import AugmentConfig, Preprocessing, Recipe
from densekit.data import DataSet, Loader, load
from densekit.data.prepare import preprocessing_for
from densekit.data.split import divide
from densekit.engine.optimizer import optimizer_for
from densekit.errors import InvalidInput
from densekit.models import ImageClassifier, build
from densekit.models.cost import cost_of, saved_bytes_of
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


@dataclass(frozen=True)
class Plan:
    """What a run will do and cost; memory and time are predictions."""

    images: dict[str, int]
    classes: int
    input: tuple[int, int, int]
    parameters: int
    macs: int
    start: str | None
    """What the weights start from."""
    new: tuple[str, ...]
    """Tensors that do not."""
    steps: int
    memory_bytes: int
    seconds: float


def plan_of(prepared: Prepared) -> Plan:
    """Counts what can be counted and times one small training step for the rest; changes no state."""
    recipe, model = prepared.recipe, prepared.model
    cost = cost_of(recipe.model)
    steps = recipe.epochs * len(prepared.loader("train", recipe.augment))
    weights = 4 * cost.parameters
    copies = 3 + (recipe.ema.decay > 0)  # weights, gradients, momentum, average
    # Whole batches where they are cheap: for small images the overhead of a step is most of it.
    seconds = _seconds_per_image(prepared, min(recipe.batch_size, max(2, 4_000_000_000 // cost.macs)))
    counts = {name: len(images) for name, images in prepared.data.splits.items()}
    # A forward pass alone is about a third of a step.
    evaluated = recipe.epochs * counts.get("val", 0) + counts.get("test", 0)
    return Plan(
        images=counts,
        classes=len(prepared.data.classes),
        input=(model.config.in_channels, *model.config.image_size),
        parameters=cost.parameters,
        macs=cost.macs,
        start=recipe.init,
        new=prepared.new,
        steps=steps,
        memory_bytes=copies * weights + recipe.batch_size * saved_bytes_of(recipe.model),
        seconds=seconds * (recipe.epochs * counts["train"] + evaluated / 3),
    )


def _seconds_per_image(prepared: Prepared, count: int) -> float:
    recipe, device = prepared.recipe, prepared.device
    with torch.random.fork_rng():
        model = copy.deepcopy(prepared.model).train()
        optimizer = optimizer_for(model, recipe.optimizer)
        shape = (count, prepared.preprocessing.channels, *prepared.preprocessing.size)
        x = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
        targets = torch.zeros(count, dtype=torch.int64, device=device)
        for _ in range(3):  # the first ones allocate and choose kernels
            started = time.perf_counter()
            optimizer.zero_grad()
            F.cross_entropy(model(x), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / count
