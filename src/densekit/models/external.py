"""Networks of torchvision and timm under our interface, freshly initialised: nothing is downloaded.

State dicts have the library's own keys, so that its weights load into ours and ours into its.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from densekit.config import ExternalConfig
from densekit.errors import InvalidInput, UnknownName
from densekit.models.base import ImageClassifier, chosen_stages

# torchvision's classes that are a chain of modules, a pool to a vector, and this head; tests prove each split.
_HEADS = {
    "AlexNet": "classifier",
    "DenseNet": "classifier",
    "EfficientNet": "classifier",
    "GoogLeNet": "fc",
    "Inception3": "fc",
    "MNASNet": "classifier",
    "MobileNetV2": "classifier",
    "MobileNetV3": "classifier",
    "RegNet": "fc",
    "ResNet": "fc",
    "ShuffleNetV2": "fc",
    "VGG": "classifier",
}
# These two add outputs in training unless told not to, and warn unless told whether to initialise.
_SETTINGS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


class ExternalModel(ImageClassifier):
    """Another library's network in `net`. Its forward is the library's own."""

    config: ExternalConfig

    def __init__(self, config: ExternalConfig, net: Any) -> None:
        super().__init__()
        self.config = config
        self.net = net
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]  # untyped in torch
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]  # untyped in torch

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return self.net(x)

    def __prepare_scriptable__(self) -> nn.Module:
        """The library's own network: names in state dicts are those of `state_dict` here, too."""
        return self.net

    def _now_has(self, num_classes: int) -> None:
        self.config = self.config.model_copy(update={"num_classes": num_classes})


class TimmModel(ExternalModel):
    """timm has the same interface: this delegates. Features are whatever the net makes, (N, h, w, C) in some."""

    def __init__(self, config: ExternalConfig, net: Any) -> None:
        super().__init__(config, net)
        self.num_features: int = net.num_features

    def forward_features(self, x: Tensor) -> Tensor:
        """What timm's network makes before its head."""
        return self.net.forward_features(x)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, classes), or what its last layer would read."""
        return self.net.forward_head(features, pre_logits=pre_logits)

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Timm's. Raises InvalidInput for the networks without."""
        if not hasattr(self.net, "forward_intermediates"):
            raise InvalidInput(
                f"timm:{self.config.name} has no intermediates; use forward_features, or timm's own features_only nets"
            )
        final, taken = self.net.forward_intermediates(x, indices=None if indices is None else list(indices))
        return final, list(taken)

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head; 0 leaves the pooled features."""
        self.net.reset_classifier(num_classes)
        self._now_has(num_classes)


class TorchvisionModel(ExternalModel):
    """Features, where the network is a chain of modules with a pool and a head; InvalidInput elsewhere."""

    def __init__(self, config: ExternalConfig, net: nn.Module) -> None:
        super().__init__(config, net)
        layers = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        self._last, last = layers[-1]  # the layer that makes the logits, in every torchvision classifier
        self._last_kind, self._last_inputs = type(last), last.weight.shape[1]
        head = getattr(net, _HEADS.get(type(net).__name__, ""), None)
        linear = [module for module in head.modules() if isinstance(module, nn.Linear)] if head is not None else []
        self.num_features = linear[0].in_features if linear else self._last_inputs
        """Of the pooled vector: for AlexNet and VGG, which keep their grid, 36 and 49 times the feature maps."""

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, maps, h, w). Raises InvalidInput where the network has no such part."""
        for module in self._chain():
            x = module(x)
        return x

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, maps, h, w) -> (N, classes), or the pooled (N, num_features). Raises InvalidInput likewise."""
        head = self._head()
        pooled = getattr(self.net, "avgpool", nn.AdaptiveAvgPool2d(1))(features).flatten(1)
        if pre_logits:
            return pooled
        return self.net.get_submodule(head)(getattr(self.net, "dropout", nn.Identity())(pooled))

    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Final features, and the last output at each resolution, of which `indices` choose. Raises InvalidInput."""
        stages: list[Tensor] = []
        for module in self._chain():
            x = module(x)
            if stages and stages[-1].shape[-2:] == x.shape[-2:]:
                stages[-1] = x
            else:
                stages.append(x)
        wanted = chosen_stages(len(stages), indices)
        return x, [stage for i, stage in enumerate(stages) if i in wanted]

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh last layer; 0 leaves what it would read."""
        device = next(self.parameters()).device
        new: nn.Module = nn.Identity()
        if num_classes:
            new = (
                nn.Linear(self._last_inputs, num_classes, device=device)
                if self._last_kind is nn.Linear
                else nn.Conv2d(self._last_inputs, num_classes, kernel_size=1, device=device)  # SqueezeNet
            )
        self.net.set_submodule(self._last, new, strict=True)
        self._now_has(num_classes)

    def _chain(self) -> Iterator[nn.Module]:
        head = self._head()
        for name, module in self.net.named_children():
            if name in ("avgpool", "dropout", head):
                break
            if name in ("features", "layers", "trunk_output"):
                yield from module.children()
            else:
                yield module
        if type(self.net).__name__ == "DenseNet":
            yield nn.ReLU()  # torchvision calls the function, between its two parts

    def _head(self) -> str:
        head = _HEADS.get(type(self.net).__name__)
        if head is None:
            raise InvalidInput(
                f"torchvision:{self.config.name} does not keep features and head apart; "
                "use the same network of timm (timm:NAME), or only its logits"
            )
        return head


def build_external(config: ExternalConfig) -> ImageClassifier:
    """A freshly initialised network of another library. Raises UnknownName, or InvalidInput without timm."""
    return _timm(config) if config.family == "timm" else _torchvision(config)


def _timm(config: ExternalConfig) -> TimmModel:
    try:
        import timm
    except ImportError:
        raise InvalidInput(f"timm:{config.name} needs timm, an extra: pip install 'densekit[timm]'") from None
    if not timm.is_model(config.name):
        raise UnknownName("timm model", config.name, timm.list_models())
    return TimmModel(
        config, timm.create_model(config.name, num_classes=config.num_classes, in_chans=config.in_channels)
    )


def _torchvision(config: ExternalConfig) -> TorchvisionModel:
    import torchvision.models as peers

    names = peers.list_models(module=peers)
    if config.name not in names:
        raise UnknownName("torchvision model", config.name, names)
    settings = {"weights": None, "num_classes": config.num_classes} | _SETTINGS.get(config.name, {})
    try:
        net: nn.Module = peers.get_model(config.name, **settings)
    except NotImplementedError:
        # RegNet computes its widths with tensors, which on the meta device have no values.
        device = torch.get_default_device()
        with torch.device("cpu"):
            net = peers.get_model(config.name, **settings).to(device)
    if config.in_channels != 3:
        _read_channels(net, config.in_channels)
    return TorchvisionModel(config, net)


def _read_channels(net: nn.Module, channels: int) -> None:
    """Replaces the first convolution by one for this many input channels."""
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]  # torch types them wider than it takes them
        stride=old.stride,  # type: ignore[arg-type]  # as above
        padding=old.padding,  # type: ignore[arg-type]  # as above
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    net.set_submodule(name, new, strict=True)


# The hooks are functions of this module, not methods: a deep copy of a network would keep the first one's methods.
def _without_prefix(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}net.")]:
        state[prefix + key.removeprefix(f"{prefix}net.")] = state.pop(key)


def _with_prefix(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}net.{key.removeprefix(prefix)}"] = state.pop(key)
