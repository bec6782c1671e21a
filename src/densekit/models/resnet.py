"""CIFAR residual networks: the paper's baselines (Huang et al. 2017, sec. 4 and figs. 3 and 4).

Plain (He et al. 2016, sec. 4.2), pre-activated (He et al. 2016b), and with stochastic depth (Huang et al. 2016).
Three stages at full, half and quarter resolution.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

from densekit.config import ResNetConfig
from densekit.errors import InvalidInput
from densekit.models.base import ImageClassifier
from densekit.models.initialisation import paper

_WIDTHS = (16, 32, 64)
_EXPANSION = 4  # of a bottleneck's output


class BasicBlock(nn.Module):
    """Conv-BN-ReLU-Conv-BN, added to the shortcut, ReLU: (N, C, H, W) -> (N, width, H/stride, W/stride)."""

    def __init__(self, in_channels: int, width: int, stride: int, survival: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.survival = survival
        self.out_channels = width

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H/stride, W/stride)."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(_shortcut(x, branch, self.stride) + _maybe(branch, self))


class PreactivationBlock(nn.Module):
    """BN-ReLU-Conv three times (1x1, 3x3, 1x1 to 4 width), or twice (3x3), added to the shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int, survival: float, *, bottleneck: bool) -> None:
        super().__init__()
        self.out_channels = _EXPANSION * width if bottleneck else width
        shapes = [(in_channels, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [(in_channels, width, 1, 1), (width, width, 3, stride), (width, self.out_channels, 1, 1)]
        self.units = nn.ModuleList(
            nn.ModuleDict(
                {
                    "bn": nn.BatchNorm2d(source),
                    "relu": nn.ReLU(),
                    "conv": nn.Conv2d(source, target, size, step, padding=size // 2, bias=False),
                }
            )
            for source, target, size, step in shapes
        )
        self.shortcut: nn.Conv2d | None = None
        if in_channels != self.out_channels:
            self.shortcut = nn.Conv2d(in_channels, self.out_channels, kernel_size=1, stride=stride, bias=False)
            self.shortcut.is_shortcut = True  # type: ignore[assignment]  # not on the longest path, by which depth counts
        self.survival = survival

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H/stride, W/stride)."""
        first, *rest = self.units
        active = first["relu"](first["bn"](x))  # type: ignore[index]
        branch = first["conv"](active)  # type: ignore[index]
        for unit in rest:
            branch = unit["conv"](unit["relu"](unit["bn"](branch)))  # type: ignore[index]
        # Where the shape changes, the authors' code projects the pre-activated input.
        passed = x if self.shortcut is None else self.shortcut(active)
        return passed + _maybe(branch, self)


class BottleneckBlock(nn.Module):
    """Conv1x1-BN-ReLU, Conv3x3-BN-ReLU, Conv1x1-BN to 4 width, added to the shortcut, ReLU."""

    def __init__(self, in_channels: int, width: int, stride: int, survival: float) -> None:
        super().__init__()
        self.out_channels = _EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, self.out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.relu3 = nn.ReLU()
        self.stride = stride
        self.survival = survival

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H/stride, W/stride)."""
        branch = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        branch = self.bn3(self.conv3(branch))
        return self.relu3(_shortcut(x, branch, self.stride) + _maybe(branch, self))


class ResNet(ImageClassifier):
    """(N, in_channels, H, W) -> (N, num_classes)."""

    config: ResNetConfig

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        per_stage = (config.depth - 2) // (9 if config.bottleneck else 6)
        total = 3 * per_stage
        channels = _WIDTHS[0]
        self.conv0 = nn.Conv2d(config.in_channels, channels, kernel_size=3, padding=1, bias=False)
        # Pre-activated nets normalise at the end instead.
        self.norm0 = nn.Identity() if config.preactivation else nn.BatchNorm2d(channels)
        self.relu0 = nn.Identity() if config.preactivation else nn.ReLU()
        self.stages = nn.ModuleList()
        for stage, width in enumerate(_WIDTHS):
            blocks = nn.Sequential()
            for i in range(per_stage):
                number = stage * per_stage + i + 1
                survival = 1 - number / total * (1 - config.survival)
                block = _block(config, channels, width, 2 if stage and not i else 1, survival)
                blocks.append(block)
                channels = block.out_channels
            self.stages.append(blocks)
        self.norm5 = nn.BatchNorm2d(channels) if config.preactivation else nn.Identity()
        self.relu5 = nn.ReLU() if config.preactivation else nn.Identity()
        self.num_features = channels
        self.classifier: nn.Module = nn.Linear(channels, config.num_classes) if config.num_classes else nn.Identity()
        paper(self)
        if min(config.image_size) < 4:
            height, width = config.image_size
            raise InvalidInput(
                f"image size {height}x{width} is too small for {config.name}: its two halvings need 4x4; "
                "pass --image-size 4 or more"
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, H/4, W/4)."""
        return self.forward_intermediates(x, ())[0]

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes), or the pooled (N, num_features)."""
        pooled = F.adaptive_avg_pool2d(features, 1).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Final features, and the outputs of the stages in `indices` (all by default)."""
        wanted = {i % 3 for i in (range(3) if indices is None else indices)}
        x = self.relu0(self.norm0(self.conv0(x)))
        taken = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in wanted:
                taken.append(x)
        return self.relu5(self.norm5(x)), taken

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for `num_classes`; 0 leaves the pooled features."""
        device = self.conv0.weight.device
        self.classifier = nn.Linear(self.num_features, num_classes, device=device) if num_classes else nn.Identity()
        self.config = self.config.model_copy(update={"num_classes": num_classes})


def _block(
    config: ResNetConfig, channels: int, width: int, stride: int, survival: float
) -> BasicBlock | BottleneckBlock | PreactivationBlock:
    if config.preactivation:
        return PreactivationBlock(channels, width, stride, survival, bottleneck=config.bottleneck)
    return (BottleneckBlock if config.bottleneck else BasicBlock)(channels, width, stride, survival)


def _shortcut(x: Tensor, branch: Tensor, stride: int) -> Tensor:
    """He et al. 2016's option A, without parameters: every stride-th pixel, missing channels zero."""
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, branch.shape[1] - x.shape[1]))


def _maybe(branch: Tensor, block: BasicBlock | BottleneckBlock | PreactivationBlock) -> Tensor:
    # Drawn per sample, which is torchvision's form: less variance than the paper's one draw a batch. It divides by
    # the survival in training where the paper multiplies by it in evaluation: the same expectation.
    return stochastic_depth(branch, 1 - block.survival, mode="row", training=block.training)
