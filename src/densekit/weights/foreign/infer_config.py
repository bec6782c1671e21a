"""Shapes of tensors -> the DenseNet they are of."""

import re
from collections.abc import Mapping

from densekit.config import DenseNetConfig
from densekit.errors import BadWeights, InvalidInput
from densekit.models.names import IMAGENET, LISTED, config_for
from densekit.weights.foreign.convert import compression_of, grows
from densekit.weights.foreign.layouts import Layout

Shapes = Mapping[str, tuple[int, ...]]

# What a name stands for; the rest says how it is executed, or what it is used on.
STRUCTURE = (
    *("growth_rate", "blocks", "stem", "stem_channels", "stem_norm"),
    *("bottleneck", "bottleneck_width", "compression"),
)


def infer_config(shapes: Shapes, layout: Layout, norm_eps: float, file: str) -> DenseNetConfig:
    """The network by our names' shapes. Raises BadWeights, saying what in it densekit's DenseNet has not."""
    _refuse_groups(shapes, file)
    stem, stem_norm = _stem(shapes, file)
    blocks = _blocks(shapes, file)
    first = [f"features.denseblock{block}.denselayer1.conv1.weight" for block in range(1, len(blocks) + 1)]
    bottleneck = first[0].replace("conv1", "conv2") in shapes
    last = first[0].replace("conv1", "conv2") if bottleneck else first[0]
    growth = shapes[last][0]
    width, rest = divmod(shapes[first[0]][0], growth)
    if bottleneck and rest:
        raise BadWeights(
            f"{file}: its bottlenecks make {shapes[first[0]][0]} maps, and densekit's a multiple of the growth rate, "
            f"{growth}; no densekit network has these weights"
        )
    for block, layers in enumerate(blocks, start=1):
        names = [f"features.denseblock{block}.denselayer{layer}.conv1.weight" for layer in range(1, layers + 1)]
        if not grows([_shape(shapes, name, 4, file)[1] for name in names], growth):
            raise BadWeights(f"{file}: the layers of block {block} do not each add {growth} maps; it is no DenseNet")
    transitions = [f"features.transition{block}.conv.weight" for block in range(1, len(blocks))]
    sizes = [_shape(shapes, name, 4, file) for name in transitions]
    compression = compression_of([(size[1], size[0]) for size in sizes])
    if compression is None:
        raise BadWeights(f"{file}: its transitions do not all compress alike; no densekit network has these weights")
    config = DenseNetConfig(
        name="densenet",
        in_channels=_shape(shapes, "features.conv0.weight", 4, file)[1],
        num_classes=shapes.get("classifier.weight", (0,))[0],
        growth_rate=growth,
        blocks=blocks,
        stem=stem,
        stem_channels=shapes["features.conv0.weight"][0],
        bottleneck=bottleneck,
        bottleneck_width=width if bottleneck else 4,
        compression=compression,
        transition_relu=layout.transition_relu,
        norm_eps=norm_eps,
        stem_norm=stem_norm,
        image_size=(224, 224) if stem == "imagenet" else (32, 32),
    )
    return config.model_copy(update={"name": _name_of(config)})


def _refuse_groups(shapes: Shapes, file: str) -> None:
    """Raises BadWeights for a convolution that reads a share of the maps that the batch norm before it has."""
    for name, shape in shapes.items():
        parent, _, part = name.removesuffix(".weight").rpartition(".")
        norm = f"{parent}.{part.replace('conv', 'norm')}"
        size = shapes.get(f"{norm}.running_mean")
        if part in ("conv", "conv1", "conv2") and len(shape) == 4 and size and size[0] > shape[1] > 0:
            groups, rest = divmod(size[0], shape[1])
            if not rest:
                raise BadWeights(
                    f"{file}: {name} is of a grouped convolution, of {groups} groups; no densekit network has these "
                    "weights"
                )


def _stem(shapes: Shapes, file: str) -> tuple[str, bool | None]:
    """The stem, and whether it has a batch norm where not every stem of its kind has one."""
    _, _, height, width = _shape(shapes, "features.conv0.weight", 4, file)
    normalised = "features.norm0.weight" in shapes or "features.norm0.running_mean" in shapes
    if (height, width) == (7, 7) and normalised:
        return "imagenet", None
    if (height, width) == (3, 3):
        return "cifar", True if normalised else None
    raise BadWeights(
        f"{file}: it begins with a {height}x{width} convolution {'and' if normalised else 'without'} a batch norm; "
        "densekit has 7x7 with one, and 3x3 with or without; no densekit network has these weights"
    )


def _blocks(shapes: Shapes, file: str) -> tuple[int, ...]:
    found: dict[int, set[int]] = {}
    for name in shapes:
        if match := re.match(r"features\.denseblock(\d+)\.denselayer(\d+)\.conv1\.weight", name):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    blocks = [found.get(block, set()) for block in range(1, len(found) + 1)]
    for block, layers in enumerate(blocks, start=1):
        if not layers or layers != set(range(1, len(layers) + 1)):
            raise BadWeights(f"{file}: block {block} lacks layers in between; it is not whole, fetch it again")
    return tuple(len(layers) for layers in blocks)


def _shape(shapes: Shapes, name: str, dimensions: int, file: str) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None:
        raise BadWeights(f"{file}: it has no {name}; it is not whole, fetch it again")
    if len(shape) != dimensions:
        raise BadWeights(
            f"{file}: its convolutions have {len(shape) - 2} dimensions, and densekit's images two; "
            "no densekit network has these weights"
        )
    return shape


def _name_of(config: DenseNetConfig) -> str:
    """The published name, the name by depth and growth rate, or a description."""
    depth = 4 + sum(config.blocks) * (2 if config.bottleneck else 1)
    variant = "b" * config.bottleneck + "c" * (config.compression < 1)
    by_depth = f"densenet{'_' * bool(variant)}{variant}_{depth}_{config.growth_rate}"
    for name in (*IMAGENET, *LISTED, by_depth):
        try:
            known = config_for(name)
        except InvalidInput:
            continue  # a depth that does not divide
        if all(getattr(known, field) == getattr(config, field) for field in STRUCTURE):
            return name
    return f"densenet of {'+'.join(map(str, config.blocks))} layers, growth rate {config.growth_rate}"
