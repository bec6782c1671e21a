"""Networks of torchvision and timm under our interface, without their weights."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from densekit.config import PeerConfig
from densekit.errors import InvalidInput, UnknownName
from densekit.models.base import ImageClassifier


class TimmModel(ImageClassifier):
    """Delegates: the interface is timm's own."""

    def __init__(self, config: PeerConfig, net: Any) -> None:
        super().__init__()
        self.config = config
        self.net = net

    def forward_features(self, x: Tensor) -> Tensor:
        """What timm's network gives."""
        return self.net.forward_features(x)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, classes), or what its classifier would read."""
        return self.net.forward_head(features, pre_logits=pre_logits)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Raises InvalidInput for the timm networks that have none."""
        if not hasattr(self.net, "forward_intermediates"):
            raise InvalidInput(f"timm:{self.config.name} has no intermediates; use its forward_features")
        final, taken = self.net.forward_intermediates(x, indices=None if indices is None else list(indices))
        return final, list(taken)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head."""
        self.net.reset_classifier(num_classes)
        self.config = self.config.model_copy(update={"num_classes": num_classes})


class TorchvisionModel(ImageClassifier):
    """A torchvision network; features where it keeps them apart from its head."""

    def __init__(self, config: PeerConfig, net: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes), by the network's own forward."""
        return self.net(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Before pooling. Raises InvalidInput where the network has no `features` part."""
        features = self._part("features")(x)
        return F.relu(features) if type(self.net).__name__ == "DenseNet" else features

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Pooling and classifier. Raises InvalidInput where the network has no `classifier` part."""
        pool = getattr(self.net, "avgpool", nn.AdaptiveAvgPool2d(1))
        pooled = pool(features).flatten(1)
        return pooled if pre_logits else self._part("classifier")(pooled)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """No intermediates: torchvision has its own tool for these; raises InvalidInput."""
        raise InvalidInput(
            f"torchvision:{self.config.name} has no intermediates here; "
            "use torchvision.models.feature_extraction.create_feature_extractor on its `net`"
        )

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last linear layer."""
        name, old = [(n, m) for n, m in self.net.named_modules() if isinstance(m, nn.Linear)][-1]
        parent, _, leaf = name.rpartition(".")
        new = nn.Linear(old.in_features, num_classes, device=old.weight.device) if num_classes else nn.Identity()
        setattr(self.net.get_submodule(parent), leaf, new)
        self.config = self.config.model_copy(update={"num_classes": num_classes})

    def _part(self, name: str) -> nn.Module:
        part = getattr(self.net, name, None)
        if not isinstance(part, nn.Module):
            raise InvalidInput(
                f"torchvision:{self.config.name} has no part '{name}'; use forward, or the same net of timm"
            )
        return part


def build_peer(config: PeerConfig) -> ImageClassifier:
    """A freshly initialised network of another library. Raises UnknownName, or InvalidInput without timm."""
    return _timm(config) if config.family == "timm" else _torchvision(config)


def _timm(config: PeerConfig) -> ImageClassifier:
    try:
        import timm
    except ImportError:
        raise InvalidInput(f"timm:{config.name} needs timm: pip install 'densekit[timm]'") from None
    if not timm.is_model(config.name):
        raise UnknownName("timm model", config.name, timm.list_models())
    net = timm.create_model(config.name, num_classes=config.num_classes, in_chans=config.in_channels)
    return TimmModel(config, net)


def _torchvision(config: PeerConfig) -> ImageClassifier:
    import torchvision.models as peers

    names = peers.list_models(module=peers)
    if config.name not in names:
        raise UnknownName("torchvision model", config.name, names)
    # These two add outputs in training unless told not to, and warn unless told how to start.
    extra = {"aux_logits": False, "init_weights": True} if config.name in ("googlenet", "inception_v3") else {}
    net: nn.Module = peers.get_model(config.name, weights=None, num_classes=config.num_classes, **extra)
    if config.in_channels != 3:
        name, old = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
        parent, _, leaf = name.rpartition(".")
        assert isinstance(old.padding, tuple)
        new = nn.Conv2d(
            config.in_channels,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            bias=old.bias is not None,
        )
        setattr(net.get_submodule(parent), leaf, new)
    return TorchvisionModel(config, net)
