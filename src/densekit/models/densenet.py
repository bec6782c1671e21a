"""DenseNet (Huang et al. 2017): dense blocks joined by transitions.

Shapes: N images, C channels, H x W pixels, k growth rate, L layers in a block. State dicts use torchvision's names.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.fx._symbolic_trace import is_fx_symbolic_tracing

from densekit import ops
from densekit.config import DenseNetConfig
from densekit.models.base import ImageClassifier, chosen_stages
from densekit.models.counts import check_size, transition_channels
from densekit.models.initialisation import INITIALISERS
from densekit.ops import backends


class DenseLayer(ops.Fusable, nn.Module):
    """BN-ReLU-Conv3x3, after BN-ReLU-Conv1x1 if bottlenecked: (N, C, H, W) -> (N, k, H, W). Paper sec. 3."""

    __constants__ = ("bottleneck",)  # torch.jit.script looks for no module that is not there

    def __init__(self, in_channels: int, config: DenseNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels, eps=config.norm_eps)
        # Not in place: hooks, class activation maps and SHAP read what came before it.
        self.relu1 = nn.ReLU()
        self.bottleneck = config.bottleneck
        if config.bottleneck:
            width = config.bottleneck_width * config.growth_rate  # 4k in the paper
            self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
            self.drop1 = _dropout(config, "conv1x1")
            self.norm2 = nn.BatchNorm2d(width, eps=config.norm_eps)
            self.relu2 = nn.ReLU()
            self.conv2 = nn.Conv2d(width, config.growth_rate, kernel_size=3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, config.growth_rate, kernel_size=3, padding=1, bias=False)
        self.drop2 = _dropout(config, "conv3x3")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, k, H, W)."""
        return self.after_conv1(self.through_conv1(x))

    def through_conv1(self, x: Tensor) -> Tensor:
        """Through the first convolution; what a plan may forget and recompute."""
        return self.conv1(self.relu1(self.norm1(x)))

    def after_conv1(self, x: Tensor) -> Tensor:
        """The rest."""
        if self.bottleneck:
            x = self.conv2(self.relu2(self.norm2(self.drop1(x))))
        return self.drop2(x)


class DenseBlock(ops.FusableBlock, nn.ModuleDict):
    """(N, C, H, W) -> (N, C + L*k, H, W). How it is computed is `plan`'s business; what it computes never changes."""

    def __init__(self, in_channels: int, layers: int, config: DenseNetConfig) -> None:
        growth = config.growth_rate
        super().__init__({f"denselayer{i + 1}": DenseLayer(in_channels + i * growth, config) for i in range(layers)})
        self.out_channels = in_channels + layers * growth

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + L*k, H, W)."""
        # A block that is scripted by itself: whole networks are as graphs.
        if not is_scripting():
            return ops.run_block(self, x)
        for layer in self.values():
            x = torch.cat((x, layer(x)), dim=1)
        return x

    def layers(self) -> tuple[nn.Module, ...]:
        """In order; users may have put others in."""
        return tuple(self.values())


class Transition(ops.FusableTransition, nn.Module):
    """BN-ReLU-Conv1x1-AvgPool2x2: (N, C, H, W) -> (N, floor(theta*C), H//2, W//2). Paper sec. 3."""

    def __init__(self, in_channels: int, config: DenseNetConfig) -> None:
        super().__init__()
        self.out_channels = transition_channels(config, in_channels)
        self.norm = nn.BatchNorm2d(in_channels, eps=config.norm_eps)
        self.relu: nn.Module = nn.ReLU() if config.transition_relu else nn.Identity()
        self.conv = nn.Conv2d(in_channels, self.out_channels, kernel_size=1, bias=False)
        self.drop = _dropout(config, "transition")
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)
        self.pool_first = config.pool_first

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, floor(theta*C), H//2, W//2)."""
        x = self.relu(self.norm(x))
        return self.reduce(self.pool(x) if self.pools_first() else x)

    def reduce(self, x: Tensor) -> Tensor:
        """What follows norm and ReLU, and the pool if it comes first."""
        return self.conv(x) if self.pools_first() else self.pool(self.drop(self.conv(x)))

    def pools_first(self) -> bool:
        """Averaging commutes with a 1x1 convolution without bias, but not with dropout between them."""
        if not is_scripting():
            if not self.pool_first or not isinstance(self.drop, nn.Dropout):
                return self.pool_first and isinstance(self.drop, nn.Identity)
            # A symbolic graph may be put into training later.
            return not (ops.is_dropping(self.drop) or is_fx_symbolic_tracing())
        return False


class DenseNet(ImageClassifier):
    """(N, in_channels, H, W) -> (N, num_classes).

    Raises InvalidInput for an image size that the transitions would halve to nothing.
    """

    config: DenseNetConfig

    def __init__(self, config: DenseNetConfig, plan: str = "auto", kernels: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.features = nn.Sequential(_stem(config))
        channels = config.stem_channels
        self._stages: list[str] = []  # names of the dense blocks
        for i, layers in enumerate(config.blocks, start=1):
            block = DenseBlock(channels, layers, config)
            self.features.add_module(f"denseblock{i}", block)
            channels = block.out_channels
            self._stages.append(f"denseblock{i}")
            if i < len(config.blocks):
                transition = Transition(channels, config)
                self.features.add_module(f"transition{i}", transition)
                channels = transition.out_channels
        # Always number 5, whatever the number of blocks: torchvision's name.
        self.features.add_module("norm5", nn.BatchNorm2d(channels, eps=config.norm_eps))
        # Behind `features`, which ends where torchvision's does. A module, as rules of attribution go by modules.
        self.relu5 = nn.ReLU()
        self.num_features = channels
        self.classifier: nn.Module = _classifier(channels, config.num_classes)
        self.use_plan(plan)
        self.use_kernels(kernels)
        INITIALISERS[config.initialisation](self)
        self.check_size(*config.image_size)

    def use_plan(self, plan: str) -> None:
        """Executes the dense blocks by that plan from now on."""
        for module in self.features:
            if isinstance(module, DenseBlock):
                module.plan = plan

    def use_kernels(self, kernels: str) -> None:
        """Executes the dense blocks' `shared` plan on that backend from now on; auto: the best that serves a call.

        Raises UnknownName or InvalidInput for one that is not there, or cannot run here.
        """
        backends.check(kernels)
        for module in self.features:
            if isinstance(module, DenseBlock):
                module.kernels = kernels

    def check_size(self, height: int, width: int) -> None:
        """Raises InvalidInput if an image of this size does not survive the stem and the transitions."""
        check_size(self.config, height, width)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_features, h, w), normalised and rectified: relu5(features(x))."""
        return ops.run_features(self.features, self.relu5, x)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes), or the pooled (N, num_features)."""
        pooled = F.adaptive_avg_pool2d(features, 1).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Final features, and the output of each dense block in `indices` (all by default; negative from the end)."""
        names = {self._stages[i] for i in chosen_stages(len(self._stages), indices)}
        taken = []
        for name, module in self.features.named_children():
            x = module(x)
            if name in names:
                taken.append(x)
        return self.relu5(x), taken

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for `num_classes`; 0 leaves the pooled features."""
        device = next(self.parameters()).device
        self.classifier = _classifier(self.num_features, num_classes).to(device)
        self.config = self.config.model_copy(update={"num_classes": num_classes})


def _stem(config: DenseNetConfig) -> OrderedDict[str, nn.Module]:
    inputs, channels, cifar = config.in_channels, config.stem_channels, config.stem == "cifar"
    side, stride = (3, 1) if cifar else (7, 2)
    conv = nn.Conv2d(inputs, channels, kernel_size=side, stride=stride, padding=side // 2, bias=False)
    stem: OrderedDict[str, nn.Module] = OrderedDict(conv0=conv)
    if config.stem_norm or not cifar:
        stem |= {"norm0": nn.BatchNorm2d(channels, eps=config.norm_eps), "relu0": nn.ReLU()}
    if not cifar:
        stem["pool0"] = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    return stem


def _dropout(config: DenseNetConfig, site: str) -> nn.Module:
    if config.dropout_rate and site in config.dropout_sites:
        return nn.Dropout(config.dropout_rate)
    return nn.Identity()


def _classifier(features: int, num_classes: int) -> nn.Module:
    # torch's own initialisation of Linear's weight is U(+-1/sqrt(fan_in)), the authors'; they zero the bias.
    if not num_classes:
        return nn.Identity()
    classifier = nn.Linear(features, num_classes)
    nn.init.zeros_(classifier.bias)
    return classifier
