"""What is measured: the network, its weights, a batch, and the answers that every contender has to give."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from densekit.config import DenseNetConfig
from densekit.errors import InvalidInput
from densekit.models import build, config_for

Kind = Literal["train", "infer", "memory"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MODELS = ("densenet_bc_100_12", "densenet121")

# By stem, as it decides the size of the maps: a pass of either takes seconds, and its tensors fit into memory.
_BATCHES: dict[tuple[Kind, str], tuple[int, ...]] = {
    ("train", "cifar"): (64,),
    ("train", "imagenet"): (16,),
    ("infer", "cifar"): (32, 1),
    ("infer", "imagenet"): (1, 8),
    ("memory", "cifar"): (64,),
    ("memory", "imagenet"): (16,),
}


@dataclass(frozen=True)
class Data:
    """What all contenders share, by file, so that also those in another process see the same bits."""

    weights: dict[str, Tensor]
    images: Tensor
    """(N, C, H, W), contiguous."""
    labels: Tensor
    """(N,)"""
    expected: dict[str, Tensor]
    """In float64: logits, and of a training step the gradient of the first convolution's weights."""


def network(name: str) -> DenseNetConfig:
    """The configuration of a DenseNet by name. Raises UnknownName, or InvalidInput for another network."""
    config = config_for(name)
    if not isinstance(config, DenseNetConfig):
        raise InvalidInput(
            f"{name} is no DenseNet, and only those have several plans and peers; try --model densenet121"
        )
    return config


def batches_for(kind: Kind, config: DenseNetConfig, batch: int | None) -> tuple[int, ...]:
    """Sizes to measure; `batch` overrules the defaults."""
    return _BATCHES[kind, config.stem] if batch is None else (batch,)


def threads_of(count: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{count} thread{'s' * (count > 1)}"


def write_data(folder: Path, kind: Kind, config: DenseNetConfig, batch: int) -> None:
    """Draws weights and a batch, and works out in float64 what is to come of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(config, "concat")
        settle(net, torch.randn(8, config.in_channels, *config.image_size))
        images = torch.randn(batch, config.in_channels, *config.image_size)
        labels = torch.randint(config.num_classes, (batch,))
    save_file(net.state_dict(), folder / "weights.safetensors")
    expected: dict[str, Tensor] = {}
    if kind != "memory":  # which measures no arithmetic
        expected = outputs(net.double(), images.double(), labels, training=kind == "train")
    save_file({"images": images, "labels": labels, **expected}, folder / "data.safetensors")


def read_data(folder: Path) -> Data:
    """What `write_data` wrote."""
    tensors = load_file(folder / "data.safetensors")
    return Data(load_file(folder / "weights.safetensors"), tensors.pop("images"), tensors.pop("labels"), tensors)


def outputs(net: nn.Module, images: Tensor, labels: Tensor, *, training: bool) -> dict[str, Tensor]:
    """Logits, and of a training step the gradient that has passed through every layer."""
    net.train(training)
    if not training:
        with torch.inference_mode():
            return {"logits": net(images).clone()}
    net.zero_grad(set_to_none=True)
    logits = net(images)
    nn.functional.cross_entropy(logits, labels).backward()
    gradient = next(p.grad for name, p in net.named_parameters() if name.endswith("features.conv0.weight"))
    assert gradient is not None
    return {"logits": logits.detach().clone(), "gradient": gradient.contiguous().clone()}


def settle(net: nn.Module, images: Tensor) -> None:
    """Statistics as after training, so that no activation of an evaluation is denormal or infinite.

    Gamma and beta are drawn, as fresh ones would hide a pair of batch norms that is swapped.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0  # the batch's own statistics become the running ones
    with torch.no_grad():
        net.train()(images)
