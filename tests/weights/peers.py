"""DenseNets of others: real ones where their package is installed, else networks with their names and their order.

The stand-alone repositories are no packages. For them `Double` builds a network that has a repository's names, its
order of modules and its way through them, from the description in `Names`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import DenseNet as Torchvision


class Names(NamedTuple):
    """{b} is a block's number from 1 and {z} from 0, {l} and {i} a layer's."""

    stem: str
    layer: str
    parts: tuple[str, ...]
    """norm1, conv1, norm2, conv2."""
    transition: str
    transition_parts: tuple[str, str]
    final: str
    head: str
    last_layer: str = ""
    """In the last block, where that is another name."""
    new_first: bool = False
    transition_relu: bool = True


NAMES = {
    "andreasveit": Names(
        "conv1", "block{b}.layer.{i}", ("bn1", "conv1", "bn2", "conv2"), "trans{b}", ("bn1", "conv1"), "bn1", "fc"
    ),
    "bamos": Names(
        "conv1", "dense{b}.{i}", ("bn1", "conv1", "bn2", "conv2"), "trans{b}", ("bn1", "conv1"), "bn1", "fc"
    ),
    "kuangliu": Names(
        "conv1",
        "dense{b}.{i}",
        ("bn1", "conv1", "bn2", "conv2"),
        "trans{b}",
        ("bn", "conv"),
        "bn",
        "linear",
        new_first=True,
    ),
    "weiaicunzai": Names(
        "conv1",
        "features.dense_block_layer_{z}.bottle_neck_layer_{i}.bottle_neck",
        ("0", "2", "3", "5"),
        "features.transition_layer_{z}.down_sample",
        ("0", "1"),
        "features.bn",
        "linear",
        last_layer="features.dense_block{z}.bottle_neck_layer_{i}.bottle_neck",
        transition_relu=False,
    ),
    "gpleiss": Names(
        "features.conv0",
        "features.denseblock{b}.denselayer{l}",
        ("norm1", "conv1", "norm2", "conv2"),
        "features.transition{b}",
        ("norm", "conv"),
        "features.norm_final",
        "classifier",
    ),
    "nobody": Names("first", "group{b}.unit{l}", ("a", "b", "c", "d"), "shrink{b}", ("a", "b"), "last", "answer"),
}


class Double(nn.Module):
    """A CIFAR DenseNet by a repository's names: (N, 3, H, W) -> (N, classes)."""

    def __init__(
        self,
        names: Names,
        *,
        growth_rate: int = 8,
        blocks: tuple[int, ...] = (2, 3, 2),
        stem_channels: int = 16,
        bottleneck: bool = True,
        reduction: float = 0.5,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.way: list[tuple[str, list[str]]] = []
        self.names = names
        channels = stem_channels
        self._put(names.stem, nn.Conv2d(3, channels, 3, padding=1, bias=False))
        for z, layers in enumerate(blocks):
            last = z + 1 == len(blocks)
            for i in range(layers):
                template = names.last_layer if last and names.last_layer else names.layer
                prefix = template.format(b=z + 1, z=z, i=i, l=i + 1)
                modules: list[nn.Module] = [nn.BatchNorm2d(channels)]
                if bottleneck:
                    modules += [nn.Conv2d(channels, 4 * growth_rate, 1, bias=False), nn.BatchNorm2d(4 * growth_rate)]
                reads = 4 * growth_rate if bottleneck else channels
                modules.append(nn.Conv2d(reads, growth_rate, 3, padding=1, bias=False))
                paths = [f"{prefix}.{part}" for part in names.parts]
                for path, module in zip(paths, modules, strict=False):
                    self._put(path, module)
                self.way.append(("layer", paths[: len(modules)]))
                channels += growth_rate
            if not last:
                prefix = names.transition.format(b=z + 1, z=z)
                paths = [f"{prefix}.{part}" for part in names.transition_parts]
                self._put(paths[0], nn.BatchNorm2d(channels))
                self._put(paths[1], nn.Conv2d(channels, int(channels * reduction), 1, bias=False))
                self.way.append(("transition", paths))
                channels = int(channels * reduction)
        self._put(names.final, nn.BatchNorm2d(channels))
        self._put(names.head, nn.Linear(channels, classes))

    def _put(self, path: str, module: nn.Module) -> None:
        *parents, last = path.split(".")
        place: nn.Module = self
        for part in parents:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(last, module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.get_submodule(self.names.stem)(x)
        for kind, paths in self.way:
            modules = [self.get_submodule(path) for path in paths]
            if kind == "transition":
                norm, conv = modules
                x = norm(x)
                x = F.avg_pool2d(conv(F.relu(x) if self.names.transition_relu else x), 2)
                continue
            new = x
            for norm, conv in zip(modules[::2], modules[1::2], strict=True):
                new = conv(F.relu(norm(new)))
            x = torch.cat((new, x) if self.names.new_first else (x, new), 1)
        x = F.relu(self.get_submodule(self.names.final)(x))
        return self.get_submodule(self.names.head)(F.adaptive_avg_pool2d(x, 1).flatten(1))


def torchvisions(*, channels: int = 3, classes: int = 7, eps: float = 1e-5) -> nn.Module:
    """Torchvision's own class, small."""
    net = Torchvision(growth_rate=8, block_config=(2, 3, 2, 2), num_init_features=16, num_classes=classes)
    if channels != 3:
        net.features.conv0 = nn.Conv2d(channels, 16, 7, stride=2, padding=3, bias=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    return net


def perturb(net: nn.Module, seed: int = 0) -> nn.Module:
    """Numbers that all matter: fresh batch norms are the identity, and would hide a pair that is swapped."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.5),
                (module.running_mean, -0.5),
                (module.running_var, 0.5),
            ):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
        elif isinstance(module, nn.Linear):
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=generator))
    return net.eval()


def before_2018(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torchvision's files of that time: dots in names of layers, and no count of batches."""
    pattern = r"(denselayer\d+\.(?:norm|conv))([12])"
    return {re.sub(pattern, r"\1.\2", key): value for key, value in state.items() if "num_batches" not in key}


def gpleiss_of_2017(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As its first efficient form: one module held the first norm and convolution of a layer."""
    renamed = {}
    for key, value in before_2018(state).items():
        key = re.sub(r"(denselayer\d+)\.norm\.1\.(\w+)$", r"\1.bn.norm_\2", key)
        renamed[re.sub(r"(denselayer\d+)\.conv\.1\.(\w+)$", r"\1.bn.conv_\2", key)] = value
    return renamed


def monais(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """MONAI's names."""
    renamed = {re.sub(r"(denselayer\d+)\.", r"\1.layers.", key): value for key, value in state.items()}
    return {key.replace("classifier.", "class_layers.out."): value for key, value in renamed.items()}


@dataclass(frozen=True)
class Peer:
    """One kind of file, and the network that makes its logits."""

    build: Callable[[], nn.Module]
    names: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    image: tuple[int, int, int] = (3, 32, 32)
    wrap: Callable[[dict[str, Tensor]], object] = dict

    def images(self) -> Tensor:
        return torch.randn(3, *self.image, generator=torch.Generator().manual_seed(1))


def timms() -> nn.Module:
    import timm

    return timm.create_model("densenet121", num_classes=7)


def data_parallel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


# What a row of the table in docs/weights.md is about.
PEERS = {
    "torchvision densenet121": Peer(lambda: Torchvision(32, (6, 12, 24, 16), 64, num_classes=7), image=(3, 64, 64)),
    "torchvision before 2018, small": Peer(torchvisions, before_2018, (3, 64, 64)),
    "timm densenet121": Peer(timms, image=(3, 64, 64), wrap=lambda s: {"state_dict": s, "arch": "densenet121"}),
    "andreasveit, BC": Peer(
        lambda: Double(NAMES["andreasveit"]), wrap=lambda s: {"epoch": 300, "state_dict": s, "best_prec1": 95.5}
    ),
    "andreasveit, no bottleneck": Peer(
        lambda: Double(NAMES["andreasveit"], bottleneck=False, reduction=1.0), data_parallel
    ),
    "bamos": Peer(lambda: Double(NAMES["bamos"])),
    "gpleiss": Peer(lambda: Double(NAMES["gpleiss"])),
    "gpleiss of 2017": Peer(lambda: Double(NAMES["gpleiss"]), gpleiss_of_2017),
    "kuangliu": Peer(
        lambda: Double(NAMES["kuangliu"], blocks=(2, 3, 2, 2)),
        data_parallel,
        wrap=lambda s: {"net": s, "acc": 95.0, "epoch": 7},
    ),
    "weiaicunzai": Peer(lambda: Double(NAMES["weiaicunzai"], blocks=(2, 3, 2, 2), classes=100)),
    "unknown names": Peer(lambda: Double(NAMES["nobody"])),
}
