"""What a kernel backend offers: one method a primitive of a dense block, and the structures that they share.

Shapes: a feature map tensor (N, C, H, W) is seen as a matrix of M = N*H*W rows (pixels) by C columns (channels), rows
possibly strided: NHWC. k is the growth rate, B the width of a bottleneck, L the layers of a block.

Types: a backend chooses them by `precision`. Matrices have the *storage* type, the sum of gradients over all readers of
a map the *gradient* type; vectors (one value a column), weights and what is returned for parameters have the
*accumulate* type, in which statistics and sums are computed, too, or in a wider one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Call(NamedTuple):
    """What a backend is chosen by."""

    device: torch.device
    dtype: torch.dtype
    """Of the maps that enter the block."""
    autocast: torch.dtype | None
    """What torch.autocast lowers convolutions to on this device, if it is on."""
    shape: tuple[int, ...]
    """(N, C, H, W) of these maps."""


class Precision(NamedTuple):
    """Types of a backend's tensors."""

    storage: torch.dtype
    """Normalised maps, bottlenecks' outputs and their gradients: what takes memory and bandwidth."""
    accumulate: torch.dtype
    """Statistics, scales and shifts, sums; parameters and their gradients."""
    gradient: torch.dtype
    """The sum over a map's readers of what they want of it, one matrix in backward."""


class Size(NamedTuple):
    """Of feature maps."""

    images: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """M, the rows of a matrix."""
        return self.images * self.height * self.width


class BnRelu(NamedTuple):
    """A convolution's prologue, relu(x * scale + shift): a batch norm whose statistics are known, and its ReLU.

    All (C,). The gradient of scale is the sum of dz * (x - centre), so that no digit is lost to a mean far from 0.
    """

    scale: Tensor
    shift: Tensor
    centre: Tensor | None = None
    """Only backward reads it; None is 0."""


class PendingNorm(NamedTuple):
    """Maps (M, K) still to be normalised into a matrix: (maps - mean) * rstd, by columns (K,)."""

    maps: Tensor
    mean: Tensor
    rstd: Tensor


class PendingNormBackward(NamedTuple):
    """The gradient of raw maps, still to be computed from that of the normalised maps x.

    rstd * (dx - mean_dx - x * mean_product) + direct. Three (M, K), three (K,).
    """

    dx: Tensor
    x: Tensor
    direct: Tensor | None
    """What reaches the raw maps by other ways than their normalisation."""
    rstd: Tensor
    mean_dx: Tensor
    """Mean of dx over all pixels (of all processes that share statistics)."""
    mean_product: Tensor
    """Mean of dx * x, likewise."""


class BatchNormGradient(NamedTuple):
    """The gradient of h (M, B), whose batch norm gave dz: dz * dz_scale + h * h_scale + offset, by columns (B,)."""

    dz: Tensor
    h: Tensor
    dz_scale: Tensor
    h_scale: Tensor
    offset: Tensor


class Moments(NamedTuple):
    """Mean and biased variance of each column, (C,); None where they were not asked for."""

    mean: Tensor | None
    variance: Tensor | None


class Conv1x1Gradients(NamedTuple):
    """What `conv1x1_backward` returns."""

    scale: Tensor
    shift: Tensor
    weight: Tensor
    finalised: tuple[Tensor, Tensor]
    """`column_reductions` of dx and x in the columns that no other layer reads."""


class Conv3x3Gradients(NamedTuple):
    """What `conv3x3_backward` returns."""

    z: Tensor
    """(M, C), of z = x * scale + shift."""
    scale: Tensor
    shift: Tensor
    weight: Tensor


class PoolGradients(NamedTuple):
    """What `bn_relu_pool_backward` returns; x is (M, C) in the gradient type."""

    x: Tensor
    scale: Tensor
    shift: Tensor


class PooledBnRelu(NamedTuple):
    """A block's epilogue: relu(x * scale + shift), averaged over pool x pool."""

    prologue: BnRelu
    pool: int


class BlockShape(NamedTuple):
    """Of a block of bottlenecks."""

    layers: int
    width: int
    """B."""
    growth: int
    """k."""


class KernelBackend(Protocol):
    """The primitives of a dense block on one kind of device and type.

    A backend may inherit from `reference.Reference` and override what it does better. It must give the reference's
    results within the rounding of its types, NaN and infinity included.
    """

    name: str
    """What `kernels=` calls it."""
    fused: bool
    """Whether it beats calling the modules one by one: plan `auto` then takes `shared`."""

    def available(self) -> bool:
        """Whether this machine and installation can run it."""
        ...

    def serves(self, call: Call) -> bool:
        """Whether it computes what the modules would, to rounding, for such maps."""
        ...

    def precision(self, call: Call) -> Precision:
        """Types of the tensors that it gets and gives for such a call."""
        ...

    def matrix(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """An empty (rows, columns), padded as the other methods want it."""
        ...

    def padded(self, x: Tensor) -> Tensor:
        """The matrix x, or a copy of it, as the other methods read it: hooks on saved tensors give bare copies back."""
        ...

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(M, C) -> mean and biased variance of each column, (C,), in the accumulate type."""
        ...

    def normalise(self, pending: PendingNorm, out: Tensor) -> None:
        """Writes the normalised maps to out (M, K)."""
        ...

    def normalise_backward(self, pending: PendingNormBackward) -> Tensor:
        """The gradient of the raw maps, (M, K)."""
        ...

    def column_reductions(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Two (M, C) -> sums over rows of x, and of x * y, (C,)."""
        ...

    def conv1x1(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, pending: PendingNorm | None = None, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        """relu(x * scale + shift) @ weight.T: (M, C), weight (B, C) -> h (M, B) in storage, and its statistics.

        `pending` maps are first normalised into the last columns of x. Statistics are those of h as it is stored,
        which is what backward reads; only if `moments`.
        """
        ...

    def conv1x1_backward(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, dh: BatchNormGradient, dx: Tensor, finalised_channels: int
    ) -> Conv1x1Gradients:
        """Backward of `conv1x1` whose output went through a batch norm.

        Adds to dx (M, C), in the gradient type, what flows to x. The last `finalised_channels` columns are the maps
        that no other layer reads: their reductions are returned, as their own batch norm backward comes next.
        """
        ...

    def conv3x3(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, size: Size, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        """3x3 convolution, zero padded, of relu(x * scale + shift): (M, C), weight (K, C, 3, 3) -> (M, K) in storage.

        Also the statistics of what is stored, if `moments`.
        """
        ...

    def conv3x3_backward(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, dy: Tensor | PendingNormBackward, size: Size
    ) -> Conv3x3Gradients:
        """Backward of `conv3x3` up to z = x * scale + shift; dy is (M, K), or what `normalise_backward` makes of it."""
        ...

    def bn_relu_pool(self, x: Tensor, prologue: BnRelu, size: Size, pool: int, dtype: torch.dtype) -> Tensor:
        """relu(x * scale + shift) averaged over pool x pool: (M, C) -> (N, C, H // pool, W // pool), channels_last.

        The output leaves the block, and has type `dtype`.
        """
        ...

    def bn_relu_pool_backward(
        self, x: Tensor, prologue: BnRelu, dy: Tensor, size: Size, pool: int, dtype: torch.dtype
    ) -> PoolGradients:
        """Backward of `bn_relu_pool`; dy is (N * (H // pool) * (W // pool), C). The gradient of x has type `dtype`."""
        ...

    def pack_dense_layer(self, conv1x1: Tensor, scale: Tensor, conv3x3: Tensor) -> Tensor:
        """(B, C, 1, 1), (B,), (k, B, 3, 3) -> one vector of weights, the 1x1's times scale, in this backend's order."""
        ...

    def block_weights(self, tensors: Sequence[Tensor]) -> Any:
        """Each layer's scale, shift, packed weights and bias -> what `dense_block` of the same backend takes."""
        ...

    def dense_block(
        self, x: Tensor, weights: Any, epilogue: PooledBnRelu | None, size: Size, shape: BlockShape
    ) -> Tensor:
        """A block of bottlenecks in evaluation: (M, C) -> (N, C + L*k, H, W), or what `bn_relu_pool` makes of that.

        In the type of x.
        """
        ...

    def content_digest(self, tensors: Sequence[Tensor]) -> Callable[[], int] | None:
        """A function that digests every bit that these tensors hold when it is called.

        It tells that folded weights are still those of the modules. None: that would cost too much here, and weights
        are folded at each call.
        """
        ...


def maps(matrix: Tensor, size: Size) -> Tensor:
    """(M, C) -> (N, C, H, W) in channels_last strides, without a copy where rows are contiguous."""
    images, height, width = size
    return matrix.reshape(images, height, width, -1).permute(0, 3, 1, 2)


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (M, C), the values of a row side by side; without a copy from channels_last."""
    matrix = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    # One image in the contiguous format is a matrix already, but a transposed one.
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def empty_maps(size: Size, channels: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """An empty (N, C, H, W) in channels_last, and its rows, to be written through.

    To be returned it must be the tensor, not its view: autograd refuses changes in place of views.
    """
    shape = (size.images, channels, size.height, size.width)
    output = torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)
    return output, output.permute(0, 2, 3, 1).view(-1, channels)


def memory_format(x: Tensor) -> torch.memory_format:
    """The format that torch's operators take an (N, C, H, W) tensor to be in, and answer in.

    By the order of its strides, as c10's is_channels_last_strides_2d: a slice is not contiguous in either format, and a
    tensor of one channel or one pixel in both.
    """
    sizes, strides = x.shape, x.stride()
    least = 0
    for d in (1, 3, 2, 0):
        if not strides[1] or not sizes[d] or strides[d] < least or (d == 0 and least == strides[1]):
            return torch.contiguous_format
        least = strides[d] * sizes[d]
    return torch.channels_last
