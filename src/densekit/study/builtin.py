"""The grids that have a name: the paper's claims, as small as two cores can do them.

Sizes are those of Fashion-MNIST in minutes. For the paper's own, say so: `--data cifar10 --epochs 300 --set ...`.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from densekit.config import ModelConfig
from densekit.models.cost import parameters_of
from densekit.models.names import config_for
from densekit.study.grid import ArmSpec, Grid, Options, with_options
from densekit.study.size_matching import nearest

# Nothing is chosen by validation images, so none are held out (paper sec. 4.2).
_FINAL = {"data.protocol": "final"}


def ablation(options: Options) -> Grid:
    """Plain, B, C and BC at equal parameters (paper fig. 4, left).

    Depth and growth rate of each variant are those that come nearest to the parameters of densenet_bc_28_12.
    """
    reference = "densenet_bc_28_12"
    variants = {"plain": "densenet_22_8", "B": "densenet_b_28_8", "C": "densenet_c_22_8", "BC": reference}
    return _grid(
        "ablation",
        options,
        question="At equal parameters, do bottlenecks (B) and compression (C) lower the error?",
        arms={name: ArmSpec(model=model, same_parameters_as=reference) for name, model in variants.items()},
        compare=(("B", "plain"), ("C", "plain"), ("BC", "plain"), ("BC", "B"), ("BC", "C")),
    )


def efficiency(options: Options) -> Grid:
    """DenseNet-BC beside ResNet and pre-activation ResNet: error against parameters and MACs (paper figs 3 and 4).

    Each DenseNet is tested against the network of either other family that is nearest to it in parameters.
    """
    families = {
        "DenseNet-BC": ("densenet_bc_16_8", "densenet_bc_16_12", "densenet_bc_22_12", "densenet_bc_22_16"),
        "ResNet": ("resnet_8", "resnet_14", "resnet_20"),
        "pre-activation ResNet": ("preact_resnet_11", "preact_resnet_20"),
    }
    arms = {name: ArmSpec(model=name, series=family) for family, names in families.items() for name in names}
    pairs = []
    for name in families["DenseNet-BC"]:
        for family in ("ResNet", "pre-activation ResNet"):
            others: dict[str, ModelConfig] = {other: config_for(other) for other in families[family]}
            pairs.append((name, nearest(parameters_of(config_for(name)), others)))
    return _grid(
        "efficiency",
        options,
        question="Does DenseNet-BC need fewer parameters and operations than a ResNet for the same error?",
        arms=arms,
        compare=tuple(pairs),
        costs=True,
        epochs=4,  # 14 minutes on two free cores
    )


def depth(options: Options) -> Grid:
    """DenseNet-BC of several depths L and growth rates k: does the error keep falling (paper sec. 4.3)?"""
    depths, rates = (10, 16, 22, 28), (8, 12)
    arms = {
        f"L{L}-k{k}": ArmSpec(model=f"densenet_bc_{L}_{k}", series=f"growth rate k = {k}", at=L)
        for k in rates
        for L in depths
    }
    deeper = tuple((f"L{L}-k{k}", f"L{before}-k{k}") for k in rates for before, L in pairwise(depths))
    wider = tuple((f"L{L}-k{rates[1]}", f"L{L}-k{rates[0]}") for L in depths)
    return _grid(
        "depth",
        options,
        question="Does the error keep falling with depth L and growth rate k?",
        arms=arms,
        compare=(*deeper, *wider),
        axis="depth L (layers)",
    )


def stochastic_depth(options: Options) -> Grid:
    """A ResNet with and without stochastic depth (Huang et al. 2016) beside a DenseNet-BC of as many parameters."""
    depths = (14, 26)
    arms = {}
    pairs = []
    for L in depths:
        plain, dropped, dense = f"resnet_{L}", f"resnet_{L}-sd", f"densenet-{L}"
        arms[plain] = ArmSpec(model=plain, series="ResNet", at=L)
        arms[dropped] = ArmSpec(model=f"stochastic_depth_resnet_{L}", series="ResNet, stochastic depth", at=L)
        arms[dense] = ArmSpec(
            model="densenet_bc_28_12", same_parameters_as=plain, series="DenseNet-BC, equal parameters", at=L
        )
        pairs += [(dropped, plain), (dense, plain), (dense, dropped)]
    return _grid(
        "stochastic-depth",
        options,
        question="Does dropping layers at random help a ResNet, and how does it compare with connecting them densely?",
        arms=arms,
        compare=tuple(pairs),
        axis="depth of the ResNet (layers)",
    )


def small_data(options: Options) -> Grid:
    """Few images, no augmentation, equal steps and parameters: does a DenseNet overfit less (paper sec. 4.3)?

    The sizes are --limit and a quarter and a sixteenth of it; with fewer images there are more epochs, so that every
    run takes as many steps.
    """
    reference = "resnet_8"
    most, epochs = options.limit or 4_096, options.epochs or 5
    models = {
        "ResNet": ArmSpec(model=reference),
        "DenseNet": ArmSpec(model="densenet_22_8", same_parameters_as=reference),
        "DenseNet-BC": ArmSpec(model="densenet_bc_22_12", same_parameters_as=reference),
    }
    arms, pairs = {}, []
    for part in (16, 4, 1):
        size = max(1, most // part)
        for series, spec in models.items():
            arms[f"{series}-{size}"] = spec.model_copy(
                update={"series": series, "at": size, "epochs": epochs * part, "settings": {"data.limit": size}}
            )
        pairs += [(f"{a}-{size}", f"{b}-{size}") for a, b in (("DenseNet", "ResNet"), ("DenseNet-BC", "ResNet"))]
        pairs.append((f"DenseNet-BC-{size}", f"DenseNet-{size}"))
    off = {"augment.flip": False, "augment.crop": "none"}
    return _grid(
        "small-data",
        options.model_copy(update={"limit": None, "epochs": None}),
        question="With few images and no augmentation, does a DenseNet overfit less, and do B and C help?",
        settings=_FINAL | off,
        epochs=None,
        arms=arms,
        compare=tuple(pairs),
        axis="training images",
    )


BUILT_IN: dict[str, Callable[[Options], Grid]] = {
    "ablation": ablation,
    "efficiency": efficiency,
    "depth": depth,
    "stochastic-depth": stochastic_depth,
    "small-data": small_data,
}


def _grid(name: str, options: Options, **facts: Any) -> Grid:
    """With the budget that all have unless they say otherwise: minutes on two cores."""
    common = {"epochs": 5, "settings": _FINAL | {"data.limit": 4_000}}
    return with_options(Grid.model_validate({"name": name} | common | facts), options)
