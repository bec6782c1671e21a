"""One answer to one image: where in the image it comes from, and from which layers.

The head of a DenseNet is linear behind a global average, so both are exact sums, and need neither gradients nor
captum. Nothing is hooked into the network either: other threads may use it meanwhile.

Shapes: C channels, h x w pixels of the last maps, L layers of the last block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densekit.analysis.connectivity import Block, blocks_of
from densekit.analysis.reuse import Map, by_means
from densekit.models import DenseNet
from densekit.models.densenet import Transition
from densekit.models.resnet import ResNet


@dataclass(frozen=True)
class Decision:
    """What the network made of one image."""

    features: Tensor
    """(C, h, w) float64: the last maps, normalised and rectified."""
    weight: Tensor
    """(classes, C) float64, of the classifier."""
    bias: Tensor
    """(classes,) float64."""
    blocks: tuple[Block, ...] = ()
    """Empty for a network without dense blocks."""
    reuse: tuple[Map, ...] = ()
    """Of each block, how much each reader drew from each source for this image (`reuse.by_activation`)."""

    @property
    def logits(self) -> NDArray[np.float64]:
        """(classes,)."""
        found: NDArray[np.float64] = (self.weight @ self.features.mean((1, 2)) + self.bias).numpy()
        return found

    def map_of(self, index: int) -> NDArray[np.float64]:
        """(h, w): the class activation map of Zhou et al. 2016. Its mean plus the class's bias is the class's logit."""
        return torch.einsum("c,chw->hw", self.weight[index], self.features).numpy()

    def parts_of(self, index: int) -> NDArray[np.float64]:
        """(L + 1,): what each source of the last block adds to the class's logit; with the bias they are all of it."""
        by_channel = self.weight[index] * self.features.mean((1, 2))
        return np.array([by_channel[channels].sum().item() for channels in self.blocks[-1].sources])


def has_maps(model: nn.Module) -> bool:
    """Whether a network of densekit's own answers from its last maps by an average and a linear layer."""
    return isinstance(model, DenseNet | ResNet) and isinstance(model.classifier, nn.Linear)


def has_reuse(model: nn.Module) -> bool:
    """Whether it has dense blocks to look into."""
    return isinstance(model, DenseNet) and has_maps(model)


@torch.inference_mode()
def decide(model: DenseNet | ResNet, image: Tensor) -> Decision:
    """(1, C, H, W), normalised. The network must have maps (`has_maps`), and be in evaluation mode."""
    last, outputs = model.forward_intermediates(image)
    head = model.classifier
    assert isinstance(head, nn.Linear)
    features, weight, bias = (x.detach().double().cpu() for x in (last[0], head.weight, head.bias))
    if not isinstance(model, DenseNet):
        return Decision(features, weight, bias)
    blocks = blocks_of(model)
    return Decision(features, weight, bias, blocks, tuple(_reuse(model, blocks, outputs)))


def _reuse(model: DenseNet, blocks: Sequence[Block], outputs: Sequence[Tensor]) -> list[Map]:
    """A block's output holds the maps of all its sources: what each reader saw of them follows by its batch norm."""
    modules = dict(model.features.named_children())
    found = []
    for block, maps in zip(blocks, outputs, strict=True):
        means = []
        for reader in block.readers:
            seen = reader.norm(maps[:, : block.sources[reader.reads - 1].stop])
            transition = modules.get(reader.name.replace(" ", ""))
            if isinstance(transition, Transition):
                seen = transition.relu(seen)
                seen = transition.pool(seen) if transition.pools_first() else seen
            else:
                seen = seen.relu()
            means.append(seen.double().abs().mean((0, 2, 3)).cpu())
        found.append(by_means(block, means))
    return found
