"""Who reads whose feature maps in a DenseNet: sources and readers of each dense block."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from densekit.errors import InvalidInput
from densekit.models import DenseNet
from densekit.models.densenet import DenseBlock, DenseLayer, Transition


@dataclass(frozen=True)
class Reader:
    """What reads a block's maps through weights of its own: a layer, a transition, or the classifier."""

    name: str
    norm: nn.BatchNorm2d
    """Normalises what is read, each reader in its own way."""
    linear: nn.Conv2d | nn.Linear
    """Its first convolution (a bottleneck's 1x1), or the classifier: its input channels are the maps."""
    reads: int
    """The first so many sources."""

    def weight(self) -> Tensor:
        """(outputs, C, h, w); of the classifier (classes, C, 1, 1)."""
        weight = self.linear.weight.detach()
        return weight if weight.dim() == 4 else weight[:, :, None, None]


@dataclass(frozen=True)
class Block:
    """A dense block: L + 1 sources of maps and L + 1 readers of them."""

    number: int
    """From 1."""
    sources: tuple[slice, ...]
    """Channels of what enters the block, then of each layer's maps."""
    readers: tuple[Reader, ...]
    """Each layer, then the transition or classifier behind the block."""

    @property
    def layers(self) -> int:
        """L."""
        return len(self.sources) - 1

    def edges(self) -> Iterator[tuple[int, int]]:
        """(source, reader) of every connection, reader by reader."""
        return ((s, r) for r, reader in enumerate(self.readers) for s in range(reader.reads))

    def named(self, source: int) -> str:
        """What a source is called."""
        if source:
            return f"layer {source}"
        return "stem" if self.number == 1 else f"transition {self.number - 1}"


def blocks_of(model: nn.Module, name: str = "this network") -> tuple[Block, ...]:
    """The dense blocks, in order. Raises InvalidInput for a network that is no DenseNet of densekit, or has no head."""
    if not isinstance(model, DenseNet):
        raise InvalidInput(
            f"{name} is not a DenseNet of densekit, and has no dense blocks to look into; name one that was trained "
            "with --model densenet..., or bring another library's DenseNet with: densekit import FILE"
        )
    if not isinstance(model.classifier, nn.Linear):
        raise InvalidInput(f"{name} has no classifier; train one from its weights: densekit train DATA --init {name}")
    modules: list[Any] = list(model.features)
    found: list[Block] = []
    for module, follower in pairwise(modules):
        if not isinstance(module, DenseBlock):
            continue
        layers: list[DenseLayer] = list(module.values())  # type: ignore[arg-type]  # nn.Module, to ModuleDict
        entering = layers[0].conv1.in_channels
        ends = [layer.conv1.in_channels for layer in layers] + [module.out_channels]
        sources = (slice(0, entering), *(slice(a, b) for a, b in pairwise(ends)))
        number = len(found) + 1
        behind = (
            Reader(f"transition {number}", follower.norm, follower.conv, len(sources))
            if isinstance(follower, Transition)
            else Reader("classifier", follower, model.classifier, len(sources))
        )
        inside = [Reader(f"layer {i}", layer.norm1, layer.conv1, i) for i, layer in enumerate(layers, start=1)]
        found.append(Block(number, sources, (*inside, behind)))
    return tuple(found)


@contextmanager
def without(reader: Reader, channels: Sequence[slice]) -> Iterator[None]:
    """Inside, the reader sees zeros in these channels, as if its weights for them were zero.

    Behind batch norm and ReLU: a zero before them would come out as some other constant.
    """

    def blank(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen = inputs[0].clone()
        for part in channels:
            seen[:, part] = 0
        return (seen,)

    handle = reader.linear.register_forward_pre_hook(blank)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_edges(block_edges: Sequence[tuple[Block, int, int]]) -> Iterator[None]:
    """Inside, none of these (block, source, reader) connections carries anything."""
    cut: dict[int, tuple[Reader, list[slice]]] = {}
    for block, source, r in block_edges:
        reader = block.readers[r]
        cut.setdefault(id(reader.linear), (reader, []))[1].append(block.sources[source])
    with ExitStack() as stack:
        for reader, channels in cut.values():
            stack.enter_context(without(reader, channels))
        yield


@contextmanager
def seen_by(readers: Sequence[Reader]) -> Iterator[list[Tensor | None]]:
    """Inside, each forward pass leaves what each reader's convolution saw, in the readers' order."""
    seen: list[Tensor | None] = [None] * len(readers)

    def keep(index: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[index] = inputs[0]

        return hook

    handles = [reader.linear.register_forward_pre_hook(keep(i)) for i, reader in enumerate(readers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def go_on(model: DenseNet, block: Block, reader: int, maps: Tensor) -> Tensor:
    """(N, classes) logits of a network that has come as far as this reader: `maps` is all that it reads.

    (N, C, H, W), C where the reader's sources end. What lies before is not computed again.
    """
    children = dict(model.features.named_children())
    names = list(children)
    at = names.index(f"denseblock{block.number}")
    for layer in list(children[names[at]].values())[reader:]:  # type: ignore[operator]  # a DenseBlock
        maps = torch.cat((maps, layer(maps)), dim=1)
    for name in names[at + 1 :]:
        maps = children[name](maps)
    return model.forward_head(maps.relu())
