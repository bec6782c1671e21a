"""`KernelBackend` on the compiled kernels, which rely on a `matrix` having its rows padded to whole vectors."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.ops.backends.base import (
    BatchNormGradient,
    BlockShape,
    BnRelu,
    Call,
    Conv1x1Gradients,
    Conv3x3Gradients,
    Moments,
    PendingNorm,
    PendingNormBackward,
    PooledBnRelu,
    PoolGradients,
    Precision,
    Size,
    empty_maps,
    rows,
)
from densekit.ops.backends.cpu import bindings, library

LANES = 16  # floats of the widest vector, to which rows and vectors are padded
_HUGE_PAGES_FROM = 4 << 20  # bytes of a matrix
_NO_MOMENTS = Moments(None, None)


class CpuKernels:
    """float32 in storage; sums over many rows in float64. `KernelBackend` says what each method computes."""

    name = "cpu"
    fused = True

    def available(self) -> bool:
        return library.available()

    def serves(self, call: Call) -> bool:
        """float32 on a CPU, outside of autocast."""
        return call.device.type == "cpu" and call.dtype == torch.float32 and call.autocast is None

    def precision(self, call: Call) -> Precision:
        return Precision(torch.float32, torch.float32, torch.float32)

    def matrix(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        whole = torch.empty(rows, _whole_vectors(columns), dtype=dtype, device=device)
        if whole.nbytes >= _HUGE_PAGES_FROM:
            _call("advise_huge_pages", data=whole, bytes=whole.nbytes)
        return whole[:, :columns]

    def padded(self, x: Tensor) -> Tensor:
        """A copy where a whole vector of the last row would leave its memory, as in a slice of columns."""
        if x.stride(1) == 1 or x.shape[1] == 1:
            end = x.storage_offset() + (len(x) - 1) * x.stride(0) + _whole_vectors(x.shape[1])
            if 4 * end <= x.untyped_storage().nbytes():
                return x
        return self._like(x).copy_(x)

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
        _call("statistics", x=x, M=x.shape[0], C=x.shape[1], mean=mean, variance=variance)
        return mean, variance

    def normalise(self, pending: PendingNorm, out: Tensor) -> None:
        _call("normalise", pending=pending, M=out.shape[0], C=out.shape[1], out=out)

    def normalise_backward(self, pending: PendingNormBackward) -> Tensor:
        out = self._like(pending.dx)
        _call("normalise_backward", pending=pending, M=out.shape[0], C=out.shape[1], out=out)
        return out

    def column_reductions(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        sums, products = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
        _call("column_reductions", x=x, y=y, M=x.shape[0], C=x.shape[1], sums=sums, products=products)
        return sums, products

    def conv1x1(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, pending: PendingNorm | None = None, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        h = self.matrix(len(x), len(weight), x.dtype, x.device)
        found = Moments(x.new_empty(len(weight)), x.new_empty(len(weight))) if moments else _NO_MOMENTS
        _call(
            "conv1x1",
            x=x,
            pending=pending,
            pending_columns=0 if pending is None else pending.maps.shape[1],
            prologue=prologue,
            weight=weight,
            M=x.shape[0],
            C=x.shape[1],
            N=len(weight),
            h=h,
            mean=found.mean,
            variance=found.variance,
        )
        return h, found

    def conv1x1_backward(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, dh: BatchNormGradient, dx: Tensor, finalised_channels: int
    ) -> Conv1x1Gradients:
        dh = dh._replace(dz=self.padded(dh.dz), h=self.padded(dh.h))
        found = Conv1x1Gradients(
            prologue.scale.new_empty(prologue.scale.shape),
            prologue.scale.new_empty(prologue.scale.shape),
            weight.new_empty(weight.shape),
            (x.new_empty(finalised_channels), x.new_empty(finalised_channels)),
        )
        _call(
            "conv1x1_backward",
            x=x,
            prologue=prologue,
            weight=weight,
            dh=dh,
            finalised=finalised_channels,
            M=x.shape[0],
            C=x.shape[1],
            N=len(weight),
            dx=dx,
            dscale=found.scale,
            dshift=found.shift,
            dweight=found.weight,
            sums=found.finalised[0],
            products=found.finalised[1],
        )
        return found

    def conv3x3(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, size: Size, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        y = self.matrix(len(x), len(weight), x.dtype, x.device)
        _call("conv3x3", x=x, prologue=prologue, weight=weight, size=size, C=x.shape[1], K=len(weight), y=y)
        return y, Moments(*self.statistics(y)) if moments else _NO_MOMENTS

    def conv3x3_backward(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, dy: Tensor | PendingNormBackward, size: Size
    ) -> Conv3x3Gradients:
        scale = prologue.scale
        dscale, dshift, dweight = (t.new_empty(t.shape) for t in (scale, scale, weight))
        found = Conv3x3Gradients(self._like(x), dscale, dshift, dweight)
        _call(
            "conv3x3_backward",
            x=x,
            prologue=prologue,
            weight=weight,
            dy={"dx": dy} if isinstance(dy, Tensor) else dy,
            size=size,
            C=x.shape[1],
            K=len(weight),
            dz=found.z,
            dscale=dscale,
            dshift=dshift,
            dweight=dweight,
        )
        return found

    def bn_relu_pool(self, x: Tensor, prologue: BnRelu, size: Size, pool: int, dtype: torch.dtype) -> Tensor:
        output, y = empty_maps(_pooled(size, pool), x.shape[1], dtype, x.device)
        _call("bn_relu_pool", x=x, prologue=prologue, size=size, C=x.shape[1], pool=pool, y=y)
        return output

    def bn_relu_pool_backward(
        self, x: Tensor, prologue: BnRelu, dy: Tensor, size: Size, pool: int, dtype: torch.dtype
    ) -> PoolGradients:
        scale = prologue.scale
        found = PoolGradients(self._like(x), scale.new_empty(scale.shape), scale.new_empty(scale.shape))
        _call(
            "bn_relu_pool_backward",
            x=x,
            prologue=prologue,
            dy=dy,
            size=size,
            C=x.shape[1],
            pool=pool,
            dx=found.x,
            dscale=found.scale,
            dshift=found.shift,
        )
        return found

    def pack_dense_layer(self, conv1x1: Tensor, scale: Tensor, conv3x3: Tensor) -> Tensor:
        shape = {"C": conv1x1.shape[1], "N": len(conv1x1), "K": len(conv3x3)}
        size = ctypes.c_ssize_t()
        _call("dense_layer_size", **shape, size=size)
        packed = conv1x1.new_empty(size.value)
        sources = {"conv1x1_weight": conv1x1.detach(), "scale": scale.detach(), "conv3x3_weight": conv3x3.detach()}
        _call("pack_dense_layer", **sources, **shape, packed=packed)
        return packed

    def block_weights(self, tensors: Sequence[Tensor]) -> "BlockWeights":
        return BlockWeights(tensors)

    def dense_block(
        self, x: Tensor, weights: "BlockWeights", epilogue: PooledBnRelu | None, size: Size, shape: BlockShape
    ) -> Tensor:
        channels, pool = x.shape[1], epilogue.pool if epilogue else 0
        total = channels + shape.layers * shape.growth
        output, _ = empty_maps(_pooled(size, max(pool, 1)), total, x.dtype, x.device)
        _call(
            "dense_block",
            x=x,
            weights=weights.addresses,
            epilogue=epilogue and epilogue.prologue,
            pool=pool,
            size=size,
            C=channels,
            layers=shape.layers,
            N=shape.width,
            K=shape.growth,
            y=rows(output),
        )
        return output

    def content_digest(self, tensors: Sequence[Tensor]) -> Callable[[], int]:
        """Of memory from each tensor's first value to its last: some hundred microseconds for a small network."""
        addresses = (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))
        sizes = (ctypes.c_ssize_t * len(tensors))(*map(_extent, tensors))

        def digest() -> int:
            found = ctypes.c_uint64()
            _call("digest", arrays=addresses, sizes=sizes, count=len(addresses), digest=found)
            return found.value

        return digest

    def _like(self, x: Tensor) -> Tensor:
        return self.matrix(x.shape[0], x.shape[1], x.dtype, x.device)


class BlockWeights:
    """Addresses for `dense_block`, and what lies there, padded to whole vectors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [F.pad(t, (0, -len(t) % LANES)).contiguous() for t in tensors]
        self.addresses = (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in self._tensors))


def _whole_vectors(columns: int) -> int:
    return -(-columns // LANES) * LANES


def _pooled(size: Size, pool: int) -> Size:
    return Size(size.images, size.height // pool, size.width // pool)


def _extent(tensor: Tensor) -> int:
    """Values from the first to the last in memory: an expanded parameter has fewer than elements."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _call(name: str, **arguments: Any) -> None:
    found = library.load()
    assert found is not None
    bindings.call(found.handle, name, **arguments)
