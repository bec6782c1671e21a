"""Implicit deep supervision (Huang et al. 2017, sec. 5): how much of the loss's gradient reaches each layer."""

import copy
import re
from dataclasses import dataclass

import numpy as np
from torch import nn

from densekit.analysis.error_metrics import losses
from densekit.analysis.image_sample import Sample
from densekit.config import DenseNetConfig, ExternalConfig, ModelConfig, ResNetConfig

# A composite function, a residual block, or a convolution that stands alone.
_UNIT = re.compile(r"(.*denselayer\d+|.*transition\d+|stages\.\d+\.\d+|.*layer\d+\.\d+|.*)")
# torchvision's residual networks by depth, for photographs; the CIFAR ones of the paper have any depth 6n + 2.
_LARGE = {18: "resnet18", 34: "resnet34", 50: "resnet50", 101: "resnet101", 152: "resnet152"}


@dataclass(frozen=True)
class Flow:
    """Gradients of one network, layer by layer from the image to the loss."""

    network: str
    state: str
    """untrained, or trained."""
    layers: list[str]
    rms: list[float]
    """Root mean square of the loss's derivative by a weight of the layer, so that layers of any size compare."""
    norm: list[float]
    """Its Euclidean norm over all the layer's weights."""

    @property
    def reach(self) -> float:
        """Median of the first quarter of layers over that of the last quarter: 1 is alike.

        Without stem and classifier, which have few weights and large gradients in any network.
        """
        inner = self.rms[1:-1] or self.rms
        quarter = max(1, len(inner) // 4)
        return float(np.median(inner[:quarter]) / np.median(inner[-quarter:]))


def flow(network: str, state: str, model: nn.Module, sample: Sample) -> Flow:
    """Gradients of the mean loss as training has them: batch statistics, but nothing dropped.

    The network is copied, and not changed.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for images, targets in sample.chunks():
        if len(targets) > 1:  # torch refuses statistics of one value
            loss = losses(model(images), targets).sum() / len(sample)
            loss.backward()
    squares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.grad is not None:
            unit = _named(name)
            squares[unit] = squares.get(unit, 0.0) + module.weight.grad.double().square().sum().item()
            counts[unit] = counts.get(unit, 0) + module.weight.numel()
    return Flow(
        network,
        state,
        list(squares),
        [float(np.sqrt(square / counts[unit])) for unit, square in squares.items()],
        [float(np.sqrt(square)) for square in squares.values()],
    )


def _named(module: str) -> str:
    match = _UNIT.match(module)
    assert match is not None
    return match[1].removeprefix("features.")


def matched(config: DenseNetConfig, depth: int) -> ModelConfig:
    """A residual network of about this depth, for the same images and classes."""
    shape = {"in_channels": config.in_channels, "num_classes": config.num_classes, "image_size": config.image_size}
    if config.stem == "imagenet":
        nearest = min(_LARGE, key=lambda each: abs(each - depth))
        return ExternalConfig(family="torchvision", name=_LARGE[nearest], **shape)
    nearest = max(8, 6 * round((depth - 2) / 6) + 2)
    return ResNetConfig(name=f"resnet_{nearest}", depth=nearest, **shape)
