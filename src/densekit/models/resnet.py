"""CIFAR residual networks: the paper's baselines (Huang et al. 2017, sec. 4 and figs. 3 and 4).

Plain (He et al. 2016, sec. 4.2), pre-activated (He et al. 2016b), and with stochastic depth (Huang et al. 2016).

Shapes: N images, C channels, H x W pixels, L residual blocks in the whole network.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from densekit.config import ResNetConfig
from densekit.models.base import ImageClassifier, chosen_stages
from densekit.models.counts import RESNET_EXPANSION, RESNET_WIDTHS, check_size
from densekit.models.initialisation import paper


class PlainBlock(nn.Module):
    """Conv-BN-ReLU-..-Conv-BN, added to the shortcut, then ReLU: (N, C, H, W) -> (N, out_channels, H/s, W/s).

    The shortcut is option A of He et al. 2016, without parameters: every s-th pixel, missing channels zero.
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], drop_rate: float) -> None:
        super().__init__()
        branch: OrderedDict[str, nn.Module] = OrderedDict()
        for i, conv in enumerate(convolutions, start=1):
            branch |= {f"conv{i}": conv, f"norm{i}": nn.BatchNorm2d(conv.out_channels), f"relu{i}": nn.ReLU()}
        branch.popitem()  # the last ReLU comes after the addition
        self.branch = nn.Sequential(branch)
        self.drop = _drop(drop_rate)
        self.relu = nn.ReLU()
        self.added_channels = convolutions[-1].out_channels - convolutions[0].in_channels
        self.stride = _stride(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H/s, W/s), rounded up."""
        branch = self.drop(self.branch(x))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.added_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.added_channels))
        return self.relu(x + branch)


class PreactivatedBlock(nn.Module):
    """BN-ReLU-Conv, repeated, added to the shortcut: (N, C, H, W) -> (N, out_channels, H/s, W/s).

    Where the shape changes, the shortcut is a 1x1 convolution of the branch's own first BN-ReLU: the authors' code
    shares that, and anything else starts each stage with a signal that was never normalised.
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], drop_rate: float) -> None:
        super().__init__()
        first, last, stride = convolutions[0], convolutions[-1], _stride(convolutions)
        self.norm = nn.BatchNorm2d(first.in_channels)
        self.relu = nn.ReLU()
        branch: OrderedDict[str, nn.Module] = OrderedDict(conv1=first)
        for i, (before, conv) in enumerate(pairwise(convolutions), start=2):
            branch |= {f"norm{i}": nn.BatchNorm2d(before.out_channels), f"relu{i}": nn.ReLU(), f"conv{i}": conv}
        self.branch = nn.Sequential(branch)
        self.drop = _drop(drop_rate)
        self.shortcut: nn.Conv2d | None = None
        if stride > 1 or first.in_channels != last.out_channels:
            self.shortcut = nn.Conv2d(first.in_channels, last.out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H/s, W/s), rounded up."""
        active = self.relu(self.norm(x))
        return (x if self.shortcut is None else self.shortcut(active)) + self.drop(self.branch(active))


class ResNet(ImageClassifier):
    """(N, in_channels, H, W) -> (N, num_classes). Raises InvalidInput for images that two halvings use up."""

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        block = PreactivatedBlock if config.preactivation else PlainBlock
        per_stage = (config.depth - 2) // (9 if config.bottleneck else 6)
        channels = RESNET_WIDTHS[0]
        stem: OrderedDict[str, nn.Module] = OrderedDict(conv0=_conv(config.in_channels, channels, 3))
        # Pre-activated branches begin with a normalisation and end in a convolution: theirs comes last.
        if not config.preactivation:
            stem |= {"norm0": nn.BatchNorm2d(channels), "relu0": nn.ReLU()}
        self.stem = nn.Sequential(stem)
        self.stages = nn.Sequential()  # timm's feature extractors look into no other container
        number = 0
        for width in RESNET_WIDTHS:
            stage = nn.Sequential()
            for i in range(per_stage):
                number += 1
                # Huang et al. 2016, eq. 4: block l of L survives with probability 1 - l/L * (1 - p_L).
                drop_rate = number / (3 * per_stage) * (1 - config.survival)
                stride = 2 if len(self.stages) and not i else 1
                convolutions = (_bottleneck if config.bottleneck else _basic)(channels, width, stride)
                stage.append(block(convolutions, drop_rate))
                channels = convolutions[-1].out_channels
            self.stages.append(stage)
        tail: OrderedDict[str, nn.Module] = OrderedDict()
        if config.preactivation:
            tail |= {"norm5": nn.BatchNorm2d(channels), "relu5": nn.ReLU()}
        self.tail = nn.Sequential(tail)
        self.num_features = channels
        self.classifier: nn.Module = _classifier(channels, config.num_classes)
        paper(self)
        self.check_size(*config.image_size)

    def check_size(self, height: int, width: int) -> None:
        """Raises InvalidInput if the last stage would see less than one whole pixel."""
        check_size(self.config, height, width)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, H/4, W/4), after the last ReLU."""
        return self.tail(self.stages(self.stem(x)))

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes), or the pooled (N, num_features)."""
        pooled = F.adaptive_avg_pool2d(features, 1).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Final features, and the outputs of the stages in `indices` (all by default; negative from the end)."""
        wanted = chosen_stages(len(self.stages), indices)
        x = self.stem(x)
        taken = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in wanted:
                taken.append(x)
        return self.tail(x), taken

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for `num_classes`; 0 leaves the pooled features."""
        device = next(self.parameters()).device
        self.classifier = _classifier(self.num_features, num_classes).to(device)
        self.config = self.config.model_copy(update={"num_classes": num_classes})


def _basic(channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    return [_conv(channels, width, 3, stride), _conv(width, width, 3)]


def _bottleneck(channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    # The authors stride in the first 1x1; torchvision's later nets stride in the 3x3, at more multiplications.
    return [_conv(channels, width, 1, stride), _conv(width, width, 3), _conv(width, RESNET_EXPANSION * width, 1)]


def _conv(source: int, target: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(source, target, kernel_size=size, stride=stride, padding=size // 2, bias=False)


def _stride(convolutions: Sequence[nn.Conv2d]) -> int:
    return max(conv.stride[0] for conv in convolutions)


def _drop(rate: float) -> nn.Module:
    # One draw a sample, not one a batch as in the paper: the gradient varies less, and a batch costs the same every
    # time; the price is the quarter of the arithmetic that skipping whole branches would save. The paper multiplies
    # a branch by its survival in evaluation, torchvision divides by it in training: the same expectation.
    return StochasticDepth(rate, mode="row") if rate else nn.Identity()


def _classifier(features: int, num_classes: int) -> nn.Module:
    if not num_classes:
        return nn.Identity()
    classifier = nn.Linear(features, num_classes)
    nn.init.zeros_(classifier.bias)  # as the authors' code
    return classifier
