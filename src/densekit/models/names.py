"""Names of networks -> configurations (Huang et al. 2017, table 1 and sec. 3; README of the authors' code)."""

import re

from pydantic import ValidationError

from densekit.config import DenseNetConfig, ExternalConfig, ModelConfig, ResNetConfig, describe
from densekit.errors import InvalidInput, UnknownName


def _imagenet(name: str, growth_rate: int, *blocks: int) -> DenseNetConfig:
    return DenseNetConfig(
        name=name, growth_rate=growth_rate, blocks=blocks, stem="imagenet", stem_channels=2 * growth_rate
    )


# A table, because depth does not give the blocks: the usual formula calls densenet264 265.
IMAGENET = {
    config.name: config
    for config in (
        _imagenet("densenet121", 32, 6, 12, 24, 16),
        _imagenet("densenet169", 32, 6, 12, 32, 32),
        _imagenet("densenet201", 32, 6, 12, 48, 32),
        _imagenet("densenet264", 32, 6, 12, 64, 48),
        _imagenet("densenet161", 48, 6, 12, 36, 24),
        _imagenet("densenet264_k48", 48, 6, 12, 64, 48),
        _imagenet("densenet232_k48", 48, 6, 12, 48, 48),
    )
}

# The CIFAR nets that `densekit models` lists; any other depth and growth rate works by name.
LISTED = (
    "densenet_40_12",
    "densenet_100_12",
    "densenet_100_24",
    "densenet_b_40_12",
    "densenet_c_40_12",
    "densenet_bc_22_12",
    "densenet_bc_40_12",
    "densenet_bc_40_36",
    "densenet_bc_40_48",
    "densenet_bc_40_60",
    "densenet_bc_100_12",
    "densenet_bc_250_24",
    "densenet_bc_190_40",
)
BASELINES = (
    "resnet_20",
    "resnet_32",
    "resnet_44",
    "resnet_56",
    "resnet_110",
    "stochastic_depth_resnet_110",
    "preact_resnet_164",
    "preact_resnet_1001",
)

_CIFAR_DENSENET = re.compile(r"densenet(?:_(?P<variant>b|c|bc))?_(?P<depth>\d+)_(?P<growth>\d+)")
_CIFAR_RESNET = re.compile(r"(?:(?P<variant>preact|stochastic_depth)_)?resnet_(?P<depth>\d+)")


def model_names() -> list[str]:
    """Every listed name, CIFAR nets first."""
    return [*LISTED, *IMAGENET, *BASELINES]


def config_for(name: str) -> ModelConfig:
    """`densenet121`, `densenet[_b|_c|_bc]_L_k`, `resnet_L`, `torchvision:NAME`, `timm:NAME`; hyphens work too.

    Raises UnknownName with the closest names, InvalidInput for a depth that does not divide.
    """
    library, colon, peer = name.partition(":")
    if colon and library in ("torchvision", "timm"):
        return ExternalConfig(family="torchvision" if library == "torchvision" else "timm", name=peer)
    key = name.lower().replace("-", "_")
    if key in IMAGENET:
        return IMAGENET[key]
    if match := _CIFAR_DENSENET.fullmatch(key):
        return _cifar_densenet(key, match["variant"] or "", int(match["depth"]), int(match["growth"]))
    if match := _CIFAR_RESNET.fullmatch(key):
        return _cifar_resnet(key, match["variant"] or "", int(match["depth"]))
    if re.fullmatch(r"resnet\d+|googlenet|wide_resnet\w+", key):  # the field's names for nets that torchvision has
        raise UnknownName("model", name, [f"torchvision:{key}"])
    raise UnknownName("model", name, model_names(), hint="`densekit models` lists them")


def _cifar_densenet(name: str, variant: str, depth: int, growth_rate: int) -> DenseNetConfig:
    bottleneck = "b" in variant
    unit = 6 if bottleneck else 3
    if growth_rate < 1:
        raise InvalidInput(f"growth rate 0 in '{name}': every layer must add at least one feature map")
    if depth < unit + 4 or (depth - 4) % unit:
        below = max(unit + 4, depth - (depth - 4) % unit)
        raise InvalidInput(
            f"depth {depth} in '{name}' does not divide: three equal blocks need L = {unit}n + 4; "
            f"use {below} or {below + unit}"
        )
    return DenseNetConfig(
        name=name,
        growth_rate=growth_rate,
        blocks=((depth - 4) // unit,) * 3,
        stem="cifar",
        stem_channels=2 * growth_rate if variant == "bc" else 16,
        bottleneck=bottleneck,
        compression=0.5 if "c" in variant else 1.0,
        num_classes=10,
        image_size=(32, 32),
    )


def _cifar_resnet(name: str, variant: str, depth: int) -> ResNetConfig:
    try:
        return ResNetConfig(
            name=name,
            depth=depth,
            bottleneck=variant == "preact",  # the paper compares with the bottleneck nets 164 and 1001
            preactivation=variant == "preact",
            survival=0.5 if variant == "stochastic_depth" else 1.0,
        )
    except ValidationError as error:
        raise InvalidInput(f"'{name}': {describe(error)}") from error
