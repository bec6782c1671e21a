"""The facts that `defaults.decide` decides by: data, machine, what the user set, and weights that can be had."""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from densekit import threads
from densekit.config import ExternalConfig, ModelConfig, Recipe, with_settings
from densekit.data import DataSet, Images
from densekit.data.native_size import NativeSize, native_size
from densekit.data.sets import ArrayImages
from densekit.devices import device_named
from densekit.errors import BadData, InvalidInput
from densekit.formatting import counted
from densekit.models import config_for
from densekit.models.counts import check_size
from densekit.models.names import IMAGENET
from densekit.recipes import recipe_for
from densekit.training.leakage import trained_on
from densekit.training.plan_selection import total_memory
from densekit.training.setup import Phase
from densekit.weights.folder import read_card
from densekit.weights.resolve import located_model, model_folder, shipped_names
from densekit.weights.torchvision_files import downloaded, torchvision_names, weights_file

SMALL = 64
"""Pixels of the median shorter side up to which pictures are trained at their own size, by a cifar stem."""
FEW = 50_000
"""Training images below which a net starts from trained weights if there are any."""
FROM_SCRATCH = "none"
"""--init none: no weights, whatever there is."""
# Multiply-accumulates a second of training, a third of which is forward. A core of a Zen 4 does 3.4e10 of
# densenet_bc_40_12; for one without AVX-512, and for a small GPU, these are guesses.
_PER_CORE, _PER_GPU = 2e10, 2e12
# Settings of a network that may differ from those its weights were trained with.
_FREE = {"in_channels", "num_classes", "image_size", "dropout_rate", "dropout_sites", "initialisation", "pool_first"}
PHOTOGRAPHS = "densenet121"
"""torchvision's network whose weights photographs start from."""
SHIPPED = "cifar10"
"""The shipped model that colour pictures start from where the network is out of reach."""


@dataclass(frozen=True)
class Weights:
    """Trained weights that can be had, and the network they are of."""

    source: str
    """As --init takes it."""
    model: ModelConfig
    what: str
    """For people: what they were trained on."""


@dataclass(frozen=True)
class Facts:
    """What decides, measured from the data's headers and the machine."""

    images: int
    """For training."""
    classes: int
    size: NativeSize
    cores: int
    memory: float
    """Bytes that the device has."""
    cuda: bool
    weights: tuple[Weights, ...] = ()
    """In the order of preference."""
    missing: str = ""
    """How to get better weights by hand; empty where they are there, or there are none for this network."""
    excluded: str = ""
    """For people: which weights are not taken, and why; empty where none are left out."""
    resizable: bool = True
    """Whether the size is to be decided: not of images in memory, which have one."""

    @property
    def small(self) -> bool:
        """Whether the pictures are small."""
        return self.size.median <= SMALL

    @property
    def few(self) -> bool:
        """Whether the images are too few to learn from scratch what trained weights know."""
        return self.images < FEW

    @property
    def machine(self) -> str:
        """For people."""
        return "a CUDA device" if self.cuda else counted(self.cores, "core")

    def seconds(self, macs: int, epochs: int) -> float:
        """A guess of how long training takes, by `macs` an image."""
        return 3.0 * macs * self.images * epochs / (_PER_GPU if self.cuda else _PER_CORE * self.cores)


@dataclass(frozen=True)
class Given:
    """What the user has decided."""

    recipe: str | None = None
    model: ModelConfig | None = None
    init: str | None = None
    keys: frozenset[str] = frozenset()
    """Dotted keys that an option, --config or --set has set."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Of these the settings of a network that is not named: `model.*`, and their values."""
    batch_size: int | None = None
    """None: to be decided."""
    image_size: tuple[int, int] | None = None
    """(height, width) in pixels. None: to be decided, or that of the images in memory."""
    optimizer: str | None = None
    """Its name. None: the recipe's, which is SGD."""

    @property
    def side(self) -> int | None:
        """Of the square of as many pixels as `image_size`."""
        return None if self.image_size is None else round(math.prod(self.image_size) ** 0.5)

    def changed(self, model: ModelConfig) -> ModelConfig:
        """`model` with the user's settings of the network. Raises UnknownName or InvalidInput."""
        return with_settings(recipe_for("quick", "", model), self.network).model if self.network else model

    def fits(self, theirs: ModelConfig) -> bool:
        """Whether weights of the network `theirs` are for the network that the user named or has changed, if any."""
        return interchangeable(theirs, self.model or self.changed(theirs))

    def unfit(self, weights: tuple[Weights, ...]) -> str:
        """For people: which weights do not fit the user's settings of a network that is not named; empty if all do."""
        if self.model is not None or not (others := [each.source for each in weights if not self.fits(each.model)]):
            return ""
        keys = [key for key in self.network if key.removeprefix("model.") not in _FREE]
        return f"{' and '.join(others)} {'does' if len(others) == 1 else 'do'} not fit {', '.join(keys)}"


@dataclass(frozen=True)
class Found:
    """Weights that can be had, and how to get better ones by hand."""

    weights: tuple[Weights, ...]
    missing: str
    excluded: str = ""
    """For people: which weights are not among them, and why."""


def facts_of(data: DataSet, recipe: Recipe, given: Given, phase: Phase = nullcontext) -> Facts:
    """Looks at headers, at the machine and, for photographs, at torchvision's server.

    Raises BadData where no image can be read, and what `read_card` raises for the given --init.
    """
    train = data.splits["train"]
    with phase("reading sizes of pictures"):
        size = native_size(train, max_pixels=recipe.data.max_pixels)
    if size is None:
        raise BadData(f"none of the training images of {data.name} can be read; mend them, or name another folder")
    if recipe.data.channels == 1:
        size = NativeSize(size.low, size.median, size.high, colour=False)
    device = device_named(recipe.device)
    wanted = given.image_size
    if wanted is None and isinstance(train, ArrayImages):
        height, width = train.pixels.shape[-2:]
        wanted = (height, width)
    found = _weights(train, size, wanted, given, phase)
    return Facts(
        images=min(len(train), recipe.data.limit or len(train)),
        classes=len(data.classes),
        size=size,
        cores=threads.cores() if device.type == "cpu" else 1,
        memory=total_memory(device),
        cuda=device.type == "cuda",
        weights=found.weights,
        missing=found.missing,
        excluded=found.excluded,
        resizable=not isinstance(train, ArrayImages),
    )


def _weights(images: Images, size: NativeSize, wanted: tuple[int, int] | None, given: Given, phase: Phase) -> Found:
    """Those to choose from. `wanted` is the (height, width) to train at; None: to be decided to suit the network."""
    if given.init is not None and given.init != FROM_SCRATCH:
        model = model_of(given.init)
        return Found(() if model is None else (Weights(given.init, model, "--init"),), "")
    if given.init == FROM_SCRATCH or given.recipe not in (None, "finetune"):
        return Found((), "")
    found, missing = [each for each in _shipped(size) if _takes(each.model, wanted)], ""
    excluded = f"{SHIPPED} was trained on some of these images" if found and trained_on(SHIPPED, images) else ""
    if excluded:
        found = []
    network = _network(given.model)
    # Small pictures start from ImageNet's weights only where the user asks for that network and for fine-tuning.
    asked = given.model is not None and given.recipe == "finetune"
    if network is not None and (asked or (size.median > SMALL and _takes(config_for(network), wanted))):
        file, model = weights_file(network), given.model or config_for(network)
        with phase(f"looking for torchvision's weights of {network}"):
            here = file.reachable()
        if here and not file.cached and given.fits(model) and (asked or len(images) < FEW):
            with phase(f"downloading torchvision's weights of {network}"):
                here = downloaded(network)
        if here:
            found.insert(0, Weights(f"torchvision:{network}", model, "trained on ImageNet's photographs"))
        elif given.fits(model):
            missing = file.by_hand()
    return Found(tuple(found), missing, excluded)


def _takes(model: ModelConfig, size: tuple[int, int] | None) -> bool:
    """Whether a network can be trained at (height, width) pixels."""
    if size is None or isinstance(model, ExternalConfig):
        return True
    try:
        check_size(model, *size)
    except InvalidInput:
        return False
    return True


def _shipped(size: NativeSize) -> Iterator[Weights]:
    """The shipped net, if this package has it and the pictures have colours as those that it knows."""
    shadowed = located_model(SHIPPED) != SHIPPED  # by a model or run folder of the user's that has this name
    if SHIPPED in shipped_names() and size.colour and not shadowed:
        yield Weights(SHIPPED, read_card(model_folder(SHIPPED)).model, "trained on CIFAR-10's pictures")


def _network(model: ModelConfig | None) -> str | None:
    """Torchvision's name of the network, if it has weights for it."""
    if model is None:
        return PHOTOGRAPHS
    ours = model.name in IMAGENET and interchangeable(model, IMAGENET[model.name])
    return model.name if (ours or model.family == "torchvision") and model.name in torchvision_names() else None


def interchangeable(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether each network takes the other's weights, but for the head and the first convolution."""
    return one.model_dump(exclude=_FREE) == other.model_dump(exclude=_FREE)


def model_of(source: str) -> ModelConfig | None:
    """The network that --init SOURCE has weights of. Raises what `model_folder` and `read_card` raise."""
    library, colon, name = source.partition(":")
    if colon and library == "torchvision":
        # Ours, where there is one: it takes the same weights, and knows the plans.
        return config_for(name if name in IMAGENET else source)
    if colon and library == "timm":
        return config_for(source)
    return read_card(model_folder(source)).model
