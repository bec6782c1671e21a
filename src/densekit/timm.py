"""Networks for timm's registry: after `import densekit.timm`, `timm.create_model("densekit_densenet_bc_100_12")` works.

A name is densekit's with `densekit_` before it, as timm has a densenet121 of its own. Needs timm (an extra).
Shapes: N images, C channels, H x W pixels.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from densekit.config import DenseNetConfig, Preprocessing, ResNetConfig
from densekit.errors import InvalidInput
from densekit.models import DenseNet, ImageClassifier, config_for, model_names
from densekit.models.base import chosen_stages
from densekit.models.counts import RESNET_WIDTHS
from densekit.models.resnet import ResNet
from densekit.weights import model_folder, read_card, shipped_names
from densekit.weights.folder import WEIGHTS

try:
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
    from timm.models import build_model_with_cfg, register_model
    from timm.models._manipulate import MATCH_PREV_GROUP
    from timm.models._pretrained import DefaultCfg, PretrainedCfg
except ImportError as error:
    raise InvalidInput("densekit.timm needs timm, an extra: pip install 'densekit[timm]'") from error

PREFIX = "densekit_"
_POOLS = ("avg", "max", "avgmax", "fast", "fastavg", "fastmax", "fastavgmax", "")
# timm's names for settings.
_NAMES = {
    "in_chans": "in_channels",
    "img_size": "image_size",
    "proj_drop_rate": "dropout_rate",
    "block_config": "blocks",
    "bn_size": "bottleneck_width",
}
_Device = torch.device | str | None

# timm looks for its models' settings in the module of their functions, under these two names.
default_cfgs: dict[str, Any] = {}
__all__ = ["PREFIX", "TimmDenseNet", "TimmResNet", "register", "registered"]


class _Timm(ImageClassifier):
    """What timm asks of a network, beyond what densekit's have. Stands before one of them in a class's bases."""

    num_features: int
    classifier: nn.Module
    global_pool: Any
    feature_info: list[dict[str, Any]]

    def _as_timm(self, global_pool: str, drop_rate: float, dtype: torch.dtype | None) -> None:
        self.num_classes = self.config.num_classes
        self.in_chans = self.config.in_channels
        self.head_hidden_size = self.num_features
        self.drop_rate = drop_rate
        self.global_pool = _pool(global_pool, self.num_classes)
        self.head_drop = nn.Dropout(drop_rate)
        self.to(dtype=dtype)

    def get_classifier(self) -> nn.Module:
        """The last layer, an Identity where there is none."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head; 0 classes leaves the features, pooled as `global_pool` says, "" for not at all."""
        before = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool = _pool(before, num_classes)
        super().reset_classifier(num_classes)  # type: ignore[safe-super]  # that of the network beside it
        self.num_classes = num_classes

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes), or what its last layer would read."""
        pooled = self.head_drop(self.global_pool(features))
        return pooled if pre_logits else self.classifier(pooled)

    def forward_intermediates(  # type: ignore[override]  # called as timm does
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps that `feature_info` names: all, the last n, or those of `indices`; with the final features before.

        Raises InvalidInput for an index out of range.

        `norm` and `stop_early` change nothing: the last map is normalised anyway, and all are computed.
        """
        if output_fmt != "NCHW":
            raise InvalidInput(f"output_fmt={output_fmt}: a convolutional network gives NCHW")
        count = len(self.feature_info)
        if isinstance(indices, int):
            if not 0 < indices <= count:
                raise InvalidInput(f"indices={indices}: there are {count} maps; give 1 to {count}, or a list of them")
            indices = range(count - indices, count)
        wanted = chosen_stages(count, indices)
        final, maps = self._maps(x)
        chosen = [each for i, each in enumerate(maps) if i in wanted]
        return chosen if intermediates_only else (final, chosen)

    def _maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        raise NotImplementedError

    def no_weight_decay(self) -> set[str]:
        """None: the paper decays all parameters."""
        return set()


class TimmDenseNet(_Timm, DenseNet):  # type: ignore[misc]  # forward_intermediates is called as timm does
    """(N, in_chans, H, W) -> (N, num_classes). Parameters, names and numbers are DenseNet's."""

    def __init__(
        self,
        cfg: DenseNetConfig,
        plan: str = "auto",
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        memory_efficient: bool = False,
        device: _Device = None,
        dtype: torch.dtype | None = None,
        **given: Any,
    ) -> None:
        with _on(device):
            DenseNet.__init__(self, _settled(cfg, given), "checkpoint" if memory_efficient else plan)
        self._as_timm(global_pool, drop_rate, dtype)
        self._plan = plan
        reduction = 1 if self.config.stem == "cifar" else 4
        self.feature_info = []
        if self.config.stem == "imagenet":
            stem = {"num_chs": self.config.stem_channels, "reduction": 2, "module": "features.relu0"}
            self.feature_info.append(stem)
        for name in self._stages:
            last = name == self._stages[-1]
            channels = getattr(self.features, name).out_channels
            module = "relu5" if last else f"features.{name}"
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": module})
            reduction *= 2

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Executes the dense blocks by densekit's plan `checkpoint`, which counts batch statistics once."""
        self.use_plan("checkpoint" if enable else self._plan)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameters by depth, for timm's layer-wise learning rates."""
        block = r"^features\.(?:denseblock|transition)(\d+)"
        layer = [
            (r"^features\.denseblock(\d+)\.denselayer(\d+)", None),
            (r"^features\.transition(\d+)", MATCH_PREV_GROUP),
        ]
        return {"stem": r"^features\.(?:conv|norm)0", "blocks": block if coarse else layer}

    def _maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Final features; of the stem, of each dense block, and in the last one's place the final features again."""
        taken = []
        names = {info["module"].removeprefix("features.") for info in self.feature_info[:-1]}
        for name, module in self.features.named_children():
            x = module(x)
            if name in names:
                taken.append(x)
        final = self.relu5(x)
        return final, [*taken, final]


class TimmResNet(_Timm, ResNet):  # type: ignore[misc]  # as above
    """(N, in_chans, H, W) -> (N, num_classes): the baselines that the paper compares with."""

    def __init__(
        self,
        cfg: ResNetConfig,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device: _Device = None,
        dtype: torch.dtype | None = None,
        **given: Any,
    ) -> None:
        with _on(device):
            ResNet.__init__(self, _settled(cfg, given))
        self._as_timm(global_pool, drop_rate, dtype)
        wide = self.num_features // RESNET_WIDTHS[-1]
        self.feature_info = [
            {"num_chs": width * wide, "reduction": 2**i, "module": f"stages.{i}"}
            for i, width in enumerate(RESNET_WIDTHS)
        ]
        if self.config.preactivation:
            self.feature_info[-1]["module"] = "tail.relu5"

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Raises InvalidInput: there is none."""
        if enable:
            raise InvalidInput(f"{self.config.name} has no gradient checkpointing; train it without")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameters by depth, for timm's layer-wise learning rates."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def _maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Final features; of each stage, and in the last one's place the final features again."""
        final, taken = ResNet.forward_intermediates(self, x)
        return final, [*taken[:-1], final]


def register(name: str) -> str:
    """Gives timm a network by densekit's name, such as densenet_bc_58_16, and returns timm's name of it.

    All that `densekit models` lists are registered on import. Raises UnknownName or InvalidInput.
    """
    config = config_for(name)
    if not isinstance(config, DenseNetConfig | ResNetConfig):
        raise InvalidInput(f"{name} is another library's network; timm has its own")
    theirs = PREFIX + config.name
    if theirs in registered():
        return theirs
    default_cfgs[theirs] = _cfgs(config)
    register_model(_entrypoint(theirs, config))
    return theirs


def registered() -> list[str]:
    """Timm's names of the networks registered so far."""
    return [name for name in __all__ if name.startswith(PREFIX)]


def _entrypoint(theirs: str, config: DenseNetConfig | ResNetConfig) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, feature_cfg: dict[str, Any] | None = None, **given: Any) -> nn.Module:
        kind = TimmDenseNet if isinstance(config, DenseNetConfig) else TimmResNet
        indices = tuple(range(5 if isinstance(config, DenseNetConfig) and config.stem == "imagenet" else 3))
        features = {"feature_cls": "getter", "out_indices": indices, "flatten_sequential": True}
        features |= feature_cfg or {}
        return build_model_with_cfg(kind, theirs, pretrained, model_cfg=config, feature_cfg=features, **given)

    create.__name__ = create.__qualname__ = theirs
    create.__doc__ = f"densekit's {config.name}."
    return create


def _cfgs(config: DenseNetConfig | ResNetConfig) -> Any:
    """Timm's settings, by tag: "" is the network as its paper has it, others the models of it that densekit ships."""
    own: dict[str, Any] = {
        "input_size": (config.in_channels, *config.image_size),
        "pool_size": _pool_size(config, config.image_size),
        "interpolation": "bilinear",  # densekit's; timm would take bicubic
        "num_classes": config.num_classes,
        "first_conv": "features.conv0" if isinstance(config, DenseNetConfig) else "stem.conv0",
        "classifier": "classifier",
        "license": "apache-2.0",
    }
    if config.image_size == (32, 32):
        # CIFAR's images are taken whole, and their statistics are not ImageNet's.
        own |= {"crop_pct": 1.0, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
    found = {"": PretrainedCfg(**own)}
    for shipped in shipped_names():
        folder = model_folder(shipped)
        card = read_card(folder)
        if card.model.name == config.name:
            about: dict[str, Any] = {
                "file": str(folder / WEIGHTS),
                "label_names": card.classes,
                "num_classes": len(card.classes),
            }
            found[shipped.replace("-", "_")] = PretrainedCfg(**own | about | _pixels(config, card.preprocessing))
    # timm's own grouping would make weights the default, and with them their channels and classes.
    return DefaultCfg(tags=deque(found), cfgs=found, is_pretrained=len(found) > 1)


def _pixels(config: DenseNetConfig | ResNetConfig, given: Preprocessing) -> dict[str, Any]:
    return {
        "input_size": (given.channels, *given.size),
        "pool_size": _pool_size(config, given.size),
        "crop_pct": min(given.size) / given.resize,
        "mean": given.mean,
        "std": given.std,
    }


def _pool_size(config: DenseNetConfig | ResNetConfig, size: tuple[int, int]) -> tuple[int, ...]:
    """Height and width of the final features for images of this size."""
    if isinstance(config, ResNetConfig):
        return tuple(-(-side // 2 ** (len(RESNET_WIDTHS) - 1)) for side in size)
    stem = 1 if config.stem == "cifar" else 4  # rounded up, and what transitions halve down
    return tuple(-(-side // stem) >> (len(config.blocks) - 1) for side in size)


def _settled(config: Any, given: dict[str, Any]) -> Any:
    """With timm's names for settings, or densekit's own. Raises InvalidInput for what is neither."""
    changed = {_NAMES.get(key, key): value for key, value in given.items()}
    unknown = sorted(set(changed) - set(type(config).model_fields))
    if unknown:
        raise InvalidInput(
            f"{config.name} has no setting {', '.join(unknown)}; known: {', '.join(type(config).model_fields)}"
        )
    return type(config).model_validate(config.model_dump() | changed)


def _on(device: _Device) -> Any:
    return nullcontext() if device is None else torch.device(device)


def _pool(name: str, num_classes: int) -> nn.Module:
    if name not in _POOLS:
        raise InvalidInput(f"global_pool={name!r} is not known; give {', '.join(map(repr, _POOLS))}")
    if not name and num_classes:
        raise InvalidInput(f"global_pool='' leaves nothing for {num_classes} classes to read; give num_classes=0, too")
    return SelectAdaptivePool2d(pool_type=name, flatten=bool(name))


for _name in model_names():
    register(_name)
