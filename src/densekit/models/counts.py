"""Parameters, MACs and depth of a DenseNet or ResNet, counted from its configuration without building it or torch.

Also the rules on shapes that building a network and counting it share.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

from densekit.config import Architecture, DenseNetConfig, ResNetConfig
from densekit.errors import InvalidInput

_Config = TypeVar("_Config", bound=Architecture)

RESNET_WIDTHS = (16, 32, 64)  # of the three stages
RESNET_EXPANSION = 4  # of a bottleneck's output over its width


@dataclass(frozen=True)
class Cost:
    """Of one image at the configuration's size."""

    parameters: int
    macs: int
    """Multiply-accumulates of convolutions, linear layers and attention's products, as built."""
    depth: int
    """Convolutions and linear layers on the longest way from image to logits: 18 of ResNet-18, 22 of GoogLeNet."""


def counted(config: DenseNetConfig | ResNetConfig) -> Cost:
    """Parameters, MACs and depth of the network that this configuration builds.

    Raises:
        InvalidInput: an image size or a compression that the network cannot be built with.
    """
    check_size(config, *config.image_size)
    count = _Count(*config.image_size)
    if isinstance(config, DenseNetConfig):
        _dense_net(count, config)
    else:
        _residual_net(count, config)
    return Cost(count.parameters, count.macs, count.depth)


def as_published(config: _Config) -> _Config:
    """The same network with convolution before pooling in transitions, as the published MACs count it."""
    return config.model_copy(update={"pool_first": False}) if isinstance(config, DenseNetConfig) else config


def check_size(config: DenseNetConfig | ResNetConfig, height: int, width: int) -> None:
    """Raises InvalidInput for an image size in pixels that strides and transitions would halve to nothing."""
    if isinstance(config, ResNetConfig):
        minimum = 2 ** (len(RESNET_WIDTHS) - 1)
        if min(height, width) < minimum:
            raise InvalidInput(
                f"image size {height}x{width} is too small for {config.name}: it is halved twice and needs "
                f"{minimum}x{minimum}; pass --image-size {minimum} or more"
            )
        return
    halvings = len(config.blocks) - 1
    # A transition floors; the ImageNet stem's two strides of 2 are padded and round up, which saves 3 pixels.
    minimum = 2**halvings if config.stem == "cifar" else 4 * 2**halvings - 3
    if min(height, width) < minimum:
        remedy = "" if config.stem == "cifar" else ", or use a cifar stem (--set model.stem=cifar)"
        raise InvalidInput(
            f"image size {height}x{width} is too small for {config.name}: its stem and {halvings} transitions "
            f"halve it to nothing below {minimum}x{minimum}; pass --image-size {minimum} or more{remedy}"
        )


def transition_channels(config: DenseNetConfig, in_channels: int) -> int:
    """floor(theta * in_channels), the maps that a transition makes. Raises InvalidInput where that is none."""
    out_channels = math.floor(config.compression * in_channels)
    if not out_channels:
        raise InvalidInput(f"compression {config.compression} leaves none of {in_channels} maps; raise it")
    return out_channels


class _Count:
    """Sums over the layers of one network, in order, at the size that the maps have there."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.parameters = self.macs = self.depth = 0

    def conv(self, inputs: int, outputs: int, side: int, *, on_longest_way: bool = True) -> None:
        """A convolution without bias, after `halve` if it strides."""
        weights = inputs * outputs * side * side
        self.parameters += weights
        self.macs += weights * self.height * self.width
        self.depth += on_longest_way

    def norm(self, channels: int) -> None:
        """A batch norm's scale and shift."""
        self.parameters += 2 * channels

    def classifier(self, inputs: int, classes: int) -> None:
        """A linear layer with bias behind the average over all places; none for 0 classes."""
        self.parameters += (inputs + 1) * classes
        self.macs += inputs * classes
        self.depth += classes > 0

    def halve(self, *, up: bool) -> None:
        """A stride of 2: padded ones round up, pooling without padding rounds down."""
        self.height, self.width = (self.height + up) // 2, (self.width + up) // 2


def _dense_net(count: _Count, config: DenseNetConfig) -> None:
    channels = config.stem_channels
    imagenet = config.stem == "imagenet"
    if imagenet:
        count.halve(up=True)
    count.conv(config.in_channels, channels, 7 if imagenet else 3)
    if imagenet or config.stem_norm:
        count.norm(channels)
    if imagenet:
        count.halve(up=True)
    for i, layers in enumerate(config.blocks, start=1):
        for _ in range(layers):
            _dense_layer(count, config, channels)
            channels += config.growth_rate
        count.norm(channels)
        if i < len(config.blocks):
            channels = _transition(count, config, channels)
    count.classifier(channels, config.num_classes)


def _dense_layer(count: _Count, config: DenseNetConfig, channels: int) -> None:
    count.norm(channels)
    if config.bottleneck:
        width = config.bottleneck_width * config.growth_rate
        count.conv(channels, width, 1)
        count.norm(width)
        channels = width
    count.conv(channels, config.growth_rate, 3)


def _transition(count: _Count, config: DenseNetConfig, channels: int) -> int:
    """All behind the batch norm; the maps that it makes."""
    reduced = transition_channels(config, channels)
    if config.pool_first:
        count.halve(up=False)
    count.conv(channels, reduced, 1)
    if not config.pool_first:
        count.halve(up=False)
    return reduced


def _residual_net(count: _Count, config: ResNetConfig) -> None:
    channels = RESNET_WIDTHS[0]
    count.conv(config.in_channels, channels, 3)
    if not config.preactivation:
        count.norm(channels)
    for stage, width in enumerate(RESNET_WIDTHS):
        for block in range((config.depth - 2) // (9 if config.bottleneck else 6)):
            if stage and not block:
                count.halve(up=True)
            channels = _residual_block(count, config, channels, width, shrinks=bool(stage and not block))
    if config.preactivation:
        count.norm(channels)
    count.classifier(channels, config.num_classes)


def _residual_block(count: _Count, config: ResNetConfig, channels: int, width: int, *, shrinks: bool) -> int:
    """The maps that it makes. Its first convolution has the stride."""
    sides = (1, 3, 1) if config.bottleneck else (3, 3)
    outputs = (width, width, RESNET_EXPANSION * width) if config.bottleneck else (width, width)
    inputs = (channels, *outputs[:-1])
    for source, target, side in zip(inputs, outputs, sides, strict=True):
        count.conv(source, target, side)
        count.norm(source if config.preactivation else target)
    if config.preactivation and (shrinks or channels != outputs[-1]):
        count.conv(channels, outputs[-1], 1, on_longest_way=False)
    return outputs[-1]
