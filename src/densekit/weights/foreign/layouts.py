"""How others name the parts of a DenseNet, and what in their networks differs from ours.

A pattern is a parameter's name with {b} for a block's number, {l} for a layer's, and {p} for what a module calls the
parameter; ".{p}" at the end goes without saying. Ours are torchvision's names. Sources: the state dicts that each
library or repository makes.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from densekit.weights.foreign.normalisation import (
    ANDREASVEIT,
    BAMOS,
    CIFAR10,
    CIFAR10_PER_IMAGE,
    CIFAR100,
    IMAGENET,
    WEIAICUNZAI,
    Statistics,
)

TORCH = {name: name for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
KERAS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class Layout(NamedTuple):
    """One way to name things."""

    name: str
    """Shown to people."""
    patterns: Mapping[str, str]
    """Theirs to ours."""
    first_block: int = 1
    first_layer: int = 1
    parameters: Mapping[str, str] = TORCH
    separator: str = "."
    new_first: bool = False
    """Layers put their maps before their input, not behind it: channels are to be reordered."""
    transition_relu: bool = True
    norm_eps: float = 1e-5
    statistics: tuple[Statistics, ...] = ()
    """Those in use with these names, the likeliest first: many repositories share them."""


_BLOCK, _LAYER, _TRANSITION = "features.denseblock{b}", "features.denseblock{b}.denselayer{l}", "features.transition{b}"
_ENDS = {
    "features.conv0": "features.conv0",
    "features.norm0": "features.norm0",
    "features.norm5": "features.norm5",
    "classifier": "classifier",
}
_TRANSITIONS = {f"{_TRANSITION}.{part}": f"{_TRANSITION}.{part}" for part in ("norm", "conv")}
_PARTS = ("norm1", "conv1", "norm2", "conv2")


def _layers(*, theirs: str, parts: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}.{name}": f"{_LAYER}.{part}" for name, part in parts.items()}


def _flat(*, layer: str, norm: str, conv: str, last: str, head: str) -> dict[str, str]:
    """Blocks, transitions and ends side by side: a transition's `norm` and `conv`, the `last` norm, and the `head`."""
    return _layers(theirs=layer, parts=_BN_CONV) | {
        "conv1": "features.conv0",
        f"trans{{b}}.{norm}": f"{_TRANSITION}.norm",
        f"trans{{b}}.{conv}": f"{_TRANSITION}.conv",
        last: "features.norm5",
        head: "classifier",
    }


_BN_CONV = {"bn1": "norm1", "conv1": "conv1", "bn2": "norm2", "conv2": "conv2"}
_DOTTED = {"norm.1": "norm1", "conv.1": "conv1", "norm.2": "norm2", "conv.2": "conv2"}
_TORCHVISION = _ENDS | _TRANSITIONS | _layers(theirs=_LAYER, parts={part: part for part in _PARTS})
_LEGACY = _ENDS | _TRANSITIONS | _layers(theirs=_LAYER, parts=_DOTTED)
_FINAL = {"features.norm_final": "features.norm5"}

LAYOUTS = (
    Layout("torchvision, timm or torchxrayvision", _TORCHVISION, statistics=(IMAGENET,)),
    Layout("torchvision before 2018", _LEGACY, statistics=(IMAGENET,)),
    Layout(
        "MONAI",
        (_ENDS | _TRANSITIONS | _layers(theirs=f"{_LAYER}.layers", parts={part: part for part in _PARTS}))
        | {"class_layers.out": "classifier"},
    ),
    Layout("gpleiss/efficient_densenet_pytorch", _TORCHVISION | _FINAL, statistics=(CIFAR10, CIFAR100)),
    Layout(
        "gpleiss/efficient_densenet_pytorch of 2017",
        _LEGACY
        | _FINAL
        # Its first bottleneck was one module that held a norm's and a convolution's parameters.
        | {f"{_LAYER}.bn.norm_{{p}}": f"{_LAYER}.norm1", f"{_LAYER}.bn.conv_{{p}}": f"{_LAYER}.conv1"},
        statistics=(CIFAR100, CIFAR10),
    ),
    Layout(
        "andreasveit/densenet-pytorch",
        _flat(layer="block{b}.layer.{l}", norm="bn1", conv="conv1", last="bn1", head="fc"),
        first_layer=0,
        statistics=(ANDREASVEIT, CIFAR10_PER_IMAGE, CIFAR100),
    ),
    Layout(
        "bamos/densenet.pytorch",
        _flat(layer="dense{b}.{l}", norm="bn1", conv="conv1", last="bn1", head="fc"),
        first_layer=0,
        statistics=(BAMOS, CIFAR10_PER_IMAGE, CIFAR100),
    ),
    Layout(
        "kuangliu/pytorch-cifar",
        _flat(layer="dense{b}.{l}", norm="bn", conv="conv", last="bn", head="linear"),
        first_layer=0,
        new_first=True,
        statistics=(CIFAR10_PER_IMAGE, CIFAR10, CIFAR100),
    ),
    Layout(
        "weiaicunzai/pytorch-cifar100",
        {
            f"features.{block}.bottle_neck_layer_{{l}}.bottle_neck.{number}": f"{_LAYER}.{part}"
            for block in ("dense_block_layer_{b}", "dense_block{b}")  # the last block has the other name
            for number, part in zip((0, 2, 3, 5), _PARTS, strict=True)
        }
        | {
            "conv1": "features.conv0",
            "features.transition_layer_{b}.down_sample.0": f"{_TRANSITION}.norm",
            "features.transition_layer_{b}.down_sample.1": f"{_TRANSITION}.conv",
            "features.bn": "features.norm5",
            "linear": "classifier",
        },
        first_block=0,
        first_layer=0,
        transition_relu=False,
        statistics=(WEIAICUNZAI, CIFAR10),
    ),
    *(
        Layout(
            name,
            {
                f"conv1{mark}conv/{{p}}": "features.conv0",
                f"conv1{mark}bn/{{p}}": "features.norm0",
                "conv{b}_block{l}_0_bn/{p}": f"{_LAYER}.norm1",
                "conv{b}_block{l}_1_conv/{p}": f"{_LAYER}.conv1",
                "conv{b}_block{l}_1_bn/{p}": f"{_LAYER}.norm2",
                "conv{b}_block{l}_2_conv/{p}": f"{_LAYER}.conv2",
                "pool{b}_bn/{p}": f"{_TRANSITION}.norm",
                "pool{b}_conv/{p}": f"{_TRANSITION}.conv",
                "bn/{p}": "features.norm5",
                "predictions/{p}": "classifier",
                "fc1000/{p}": "classifier",
            },
            first_block=2,
            parameters=KERAS,
            separator="/",
            norm_eps=1.001e-5,
            statistics=(IMAGENET,),
        )
        for name, mark in (("Keras", "_"), ("Keras 2", "/"))
    ),
)


def translate(layout: Layout, name: str) -> str | None:
    """Our name of what `layout` calls `name`; none for what it does not know."""
    for pattern, ours in _compiled(layout.name):
        match = pattern.fullmatch(name)
        if match is None:
            continue
        found = match.groupdict()
        parameter = layout.parameters.get(found["p"])
        if parameter is None:
            return None
        block = int(found.get("b") or 0) - layout.first_block + 1
        layer = int(found.get("l") or 0) - layout.first_layer + 1
        return f"{ours.format(b=block, l=layer)}.{parameter}"
    return None


@cache
def _compiled(name: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    (layout,) = (layout for layout in LAYOUTS if layout.name == name)
    return tuple((_pattern(theirs), ours) for theirs, ours in layout.patterns.items())


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template if "{p}" in template else f"{template}.{{p}}")
    for placeholder, expression in (("b", r"\d+"), ("l", r"\d+"), ("p", "[a-z_]+")):
        text = text.replace(rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{expression})")
    return re.compile(text)
