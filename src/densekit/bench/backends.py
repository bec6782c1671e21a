"""Who is compared. A peer is what a user would pick instead, at its best: in both layouts, set as its manual says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from densekit.bench.workload import Kind
from densekit.config import DenseNetConfig
from densekit.models import build
from densekit.optional_packages import missing_of

Runtime = Literal["eager", "compile", "onnxruntime", "openvino"]

_EXPORT = ("onnx", "onnxscript")
# Images of graphs are contiguous: their runtimes choose the layout inside themselves.
LAYOUTS: dict[Runtime, tuple[str, ...]] = {
    "eager": ("channels_last", "contiguous"),
    "compile": ("channels_last", "contiguous"),
    "onnxruntime": ("contiguous",),
    "openvino": ("contiguous",),
}


class NotApplicable(Exception):
    """Why a contender is not measured; tables show `status` in the place of its time."""

    def __init__(self, status: str, reason: str) -> None:
        self.status = status
        super().__init__(reason)


@dataclass(frozen=True)
class BenchBackend:
    """One way to run the network."""

    name: str
    origin: Literal["densekit", "torchvision", "timm"]
    net: Callable[[DenseNetConfig], nn.Module]
    runtime: Runtime = "eager"
    packages: tuple[str, ...] = ()
    """To import, beside what densekit needs itself."""

    @property
    def ours(self) -> bool:
        """Whether it is densekit's, not a peer."""
        return self.origin == "densekit"

    @property
    def layouts(self) -> tuple[str, ...]:
        """Memory layouts it is tried in."""
        return LAYOUTS[self.runtime]

    def build(self, config: DenseNetConfig, weights: dict[str, Tensor]) -> nn.Module:
        """The network with these weights. Raises CannotTakePart where a package is missing or has no such network."""
        missing = missing_of(self.packages)
        if missing:
            raise NotApplicable("not installed", f"pip install {' '.join(missing)}")
        net = self.net(config)
        net.load_state_dict(weights)  # strict: densekit uses torchvision's names, and so does timm
        return net


def bench_backends(kind: Kind, plans: Sequence[str] = (), *, compiled: bool = False) -> list[BenchBackend]:
    """Everybody who can do this kind of work, ours first; `plans` overrules which of ours."""
    chosen = plans or (("auto",) if kind == "infer" else ("concat", "checkpoint", "shared"))
    ours = [BenchBackend(f"densekit {plan}", "densekit", partial(build, plan=plan)) for plan in chosen]
    peers = [BenchBackend("torchvision", "torchvision", _torchvision)]
    if kind == "infer":
        ours += _graphs("densekit", partial(build, plan="concat"))
        peers += _graphs("torchvision", _torchvision)
    else:
        frugal = partial(_torchvision, memory_efficient=True)
        peers.append(BenchBackend("torchvision memory_efficient", "torchvision", frugal))
    peers.append(BenchBackend("timm", "timm", _timm, packages=("timm",)))
    if compiled:
        peers.append(BenchBackend("torchvision torch.compile", "torchvision", _torchvision, "compile"))
    return [*ours, *peers]


def _graphs(
    origin: Literal["densekit", "torchvision"], net: Callable[[DenseNetConfig], nn.Module]
) -> list[BenchBackend]:
    runtimes: tuple[Runtime, ...] = ("onnxruntime", "openvino")
    return [BenchBackend(f"{origin} {runtime}", origin, net, runtime, (*_EXPORT, runtime)) for runtime in runtimes]


def _torchvision(config: DenseNetConfig, *, memory_efficient: bool = False) -> nn.Module:
    from torchvision.models.densenet import DenseNet

    _need_published_form("torchvision", config)
    net: nn.Module = DenseNet(
        config.growth_rate,
        config.blocks,
        config.stem_channels,
        bn_size=config.bottleneck_width,
        num_classes=config.num_classes,
        memory_efficient=memory_efficient,
    )
    return _with_stem(net, config)


def _timm(config: DenseNetConfig) -> nn.Module:
    from timm.models.densenet import DenseNet

    _need_published_form("timm", config)
    if config.stem_channels != 2 * config.growth_rate:
        raise NotApplicable("no such net", "timm's stem always has 2k maps")
    net: nn.Module = DenseNet(
        config.growth_rate,
        config.blocks,
        config.num_classes,
        in_chans=config.in_channels,
        bn_size=config.bottleneck_width,
    )
    return _with_stem(net, config)


def _need_published_form(library: str, config: DenseNetConfig) -> None:
    if not config.bottleneck or config.compression != 0.5:
        raise NotApplicable("no such net", f"{library} has only bottlenecked nets of compression 0.5")


def _with_stem(net: nn.Module, config: DenseNetConfig) -> nn.Module:
    """The one 3x3 convolution of the CIFAR nets, in the place of libraries' ImageNet stem."""
    if config.stem == "cifar":
        conv = nn.Conv2d(config.in_channels, config.stem_channels, kernel_size=3, padding=1, bias=False)
        net.set_submodule("features.conv0", conv)
        for name in ("norm0", "relu0", "pool0"):
            if hasattr(net.features, name):  # timm's norm0 holds its own ReLU
                net.set_submodule(f"features.{name}", nn.Identity())
    return net
