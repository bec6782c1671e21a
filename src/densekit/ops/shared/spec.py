"""What the passes of a block know before they begin, and what forward saves for backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from densekit.ops import batch_norm
from densekit.ops.backends.base import BnRelu, KernelBackend, Precision, Size


class Layer(Protocol):
    """What a dense layer has to offer; drop1, norm2 and conv2 are there if `bottleneck`."""

    bottleneck: bool
    norm1: nn.BatchNorm2d
    conv1: nn.Conv2d
    drop1: nn.Module
    norm2: nn.BatchNorm2d
    conv2: nn.Conv2d
    drop2: nn.Module


@dataclass(frozen=True)
class Epilogue:
    """The batch norm and ReLU behind a block, and the factor by which an average pool follows them (1: none)."""

    norm: Any
    pool: int


@dataclass(frozen=True)
class BlockSpec:
    """A block's sizes and modes; no tensors but those of its modules."""

    kernels: KernelBackend
    precision: Precision
    layers: Sequence[Layer]
    epilogue: Epilogue | None
    size: Size
    in_channels: int
    growth: int
    training: bool
    """Whether norms take the statistics of the batch."""
    synchronised: bool
    """Whether they take them over several processes."""

    @property
    def total(self) -> int:
        """Channels of the block's output."""
        return self.channels(len(self.layers))

    @property
    def eps(self) -> float:
        """Of all norms alike."""
        return self.layers[0].norm1.eps

    def channels(self, layer: int) -> int:
        """Channels that this layer reads."""
        return self.in_channels + layer * self.growth

    def new_columns(self, layer: int) -> slice:
        """Where this layer's maps stand in the matrix."""
        return slice(self.channels(layer), self.channels(layer + 1))


def spec_of(
    kernels: KernelBackend, precision: Precision, x: Tensor, layers: Sequence[Layer], epilogue: Epilogue | None
) -> BlockSpec:
    """Of a block that reads x (N, C, H, W)."""
    first = layers[0]
    return BlockSpec(
        kernels,
        precision,
        layers,
        epilogue,
        Size(x.shape[0], x.shape[2], x.shape[3]),
        in_channels=x.shape[1],
        growth=len((first.conv2 if first.bottleneck else first.conv1).weight),
        training=first.norm1.training,
        synchronised=batch_norm.is_synchronised(first.norm1),
    )


def parameters_of(layers: Sequence[Layer], epilogue: Epilogue | None) -> list[Tensor]:
    """Those of each layer, in the order in which they are used, and those of the epilogue."""
    found: list[Tensor] = []
    for layer in layers:
        found += [layer.norm1.weight, layer.norm1.bias, layer.conv1.weight]
        if layer.bottleneck:
            found += [layer.norm2.weight, layer.norm2.bias, layer.conv2.weight]
    return found if epilogue is None else [*found, epilogue.norm.weight, epilogue.norm.bias]


def grouped(layers: Sequence[Layer], parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """`parameters_of` by layer, and at the end the epilogue's."""
    each = 6 if layers[0].bottleneck else 3
    return [parameters[i : i + each] for i in range(0, len(parameters), each)]


class Statistics(NamedTuple):
    """What a batch norm normalises by; None where the matrix holds maps that are normalised already."""

    mean: Tensor | None
    rstd: Tensor | None


NORMALISED = Statistics(None, None)


def running_statistics(norm: nn.BatchNorm2d) -> Statistics:
    """What a batch norm normalises by in evaluation."""
    # guards saw that it tracks them. A copy, as training may go on before backward.
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    return Statistics(mean.clone(), (variance + norm.eps).rsqrt())


class Affine:
    """A reader's batch norm as z = x * scale + shift, x being what the matrix holds."""

    def __init__(self, gamma: Tensor, beta: Tensor, statistics: Statistics) -> None:
        mean, self._rstd = statistics
        if mean is None or self._rstd is None:
            self.prologue = BnRelu(gamma, beta)
        else:
            scale = gamma * self._rstd
            self.prologue = BnRelu(scale, beta - mean * scale, mean)

    @property
    def scale(self) -> Tensor:
        """(C,)."""
        return self.prologue.scale

    def gamma_gradient(self, dscale: Tensor) -> Tensor:
        """Of gamma, from that of scale."""
        return dscale if self._rstd is None else dscale * self._rstd


class LayerState(NamedTuple):
    """What backward needs of a layer beside the matrix; the last five only of a bottleneck's."""

    mean1: Tensor | None
    rstd1: Tensor | None
    drop2: Tensor | None
    h: Tensor | None = None
    mean2: Tensor | None = None
    rstd2: Tensor | None = None
    drop1: Tensor | None = None


class Saved(NamedTuple):
    """What forward saves for backward."""

    matrix: Tensor
    """(M, C + L*k): normalised maps in training, raw ones in evaluation."""
    moments: Tensor
    """(3, C + L*k): mean, biased variance and 1 / standard deviation of each map, in training."""
    placeholder: Tensor
    """`second_order.placeholder` of the input."""
    epilogue: Statistics
    states: list[LayerState]
    groups: list[Sequence[Tensor]]
    """Parameters, as `grouped`."""

    def flat(self) -> list[Tensor | None]:
        """As autograd saves it; `unflatten` gives it back."""
        states = [tensor for state in self.states for tensor in state]
        parameters = [p for group in self.groups for p in group]
        return [self.matrix, self.moments, self.placeholder, *self.epilogue, *states, *parameters]

    @classmethod
    def unflatten(cls, layers: Sequence[Layer], tensors: Sequence[Any]) -> "Saved":
        """From what autograd saved."""
        matrix, moments, placeholder, mean, rstd, *rest = tensors
        width = len(LayerState._fields)
        states = [LayerState(*rest[i * width : (i + 1) * width]) for i in range(len(layers))]
        groups = grouped(layers, rest[len(layers) * width :])
        return cls(matrix, moments, placeholder, Statistics(mean, rstd), states, groups)


def moments_matrix(spec: BlockSpec, device: torch.device) -> Tensor:
    """Empty `Saved.moments`."""
    return torch.empty(3, spec.total, dtype=spec.precision.accumulate, device=device)
