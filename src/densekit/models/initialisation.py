"""Initial weights, by name."""

from collections.abc import Callable
from typing import Literal

from torch import nn


def paper(model: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (kh*kw*out))): fan-out, as the authors' code."""
    _initialise(model, "fan_out")


def torchvision(model: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (kh*kw*in))): fan-in, as torchvision, timm and MONAI."""
    _initialise(model, "fan_in")


def _initialise(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    for module in model.modules():
        # On the meta device there are no values, and torch would import its compiler to fill them in.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


INITIALISERS: dict[str, Callable[[nn.Module], None]] = {"paper": paper, "torchvision": torchvision}
