"""The primitives in torch operators: any device, any floating type. What other backends are compared with."""

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
    maps,
    rows,
)

# Less precise types have rules of their own about what is rounded when, which the shared plan does not follow.
_EXACT = (torch.float32, torch.float64)
_NO_MOMENTS = Moments(None, None)


class Reference:
    """Every primitive as its formula, in torch operators. `KernelBackend` says what each computes.

    Arithmetic is in the type of scales, shifts and weights, results are stored in that of the matrix. A backend may
    inherit from it, and override what it does otherwise.
    """

    name = "reference"
    fused = False

    def available(self) -> bool:
        """Wherever torch runs."""
        return True

    def serves(self, call: Call) -> bool:
        """float32 and float64, outside of autocast."""
        return call.dtype in _EXACT and call.autocast is None

    def precision(self, call: Call) -> Precision:
        """One type for everything."""
        return Precision(call.dtype, call.dtype, call.dtype)

    def matrix(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(rows, columns, dtype=dtype, device=device)

    def padded(self, x: Tensor) -> Tensor:
        return x

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(_accumulated(x), 0, unbiased=False)
        return mean, variance

    def normalise(self, pending: PendingNorm, out: Tensor) -> None:
        maps, mean, rstd = pending
        torch.mul(maps - mean, rstd, out=out)

    def normalise_backward(self, pending: PendingNormBackward) -> Tensor:
        dx, x, direct, rstd, mean_dx, mean_product = pending
        gradient = rstd * (dx - mean_dx - x * mean_product)
        return gradient if direct is None else gradient + direct

    def column_reductions(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = _accumulated(x)
        return x.sum(0), (x * y).sum(0)

    def conv1x1(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, pending: PendingNorm | None = None, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        if pending is not None:
            self.normalise(pending, x[:, x.shape[1] - pending.maps.shape[1] :])
        h = (bn_relu(x, prologue) @ weight.T).to(x.dtype)
        return h, Moments(*self.statistics(h)) if moments else _NO_MOMENTS

    def conv1x1_backward(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, dh: BatchNormGradient, dx: Tensor, finalised_channels: int
    ) -> Conv1x1Gradients:
        gradient = dh.dz * dh.dz_scale + dh.h * dh.h_scale + dh.offset
        z = bn_relu(x, prologue)
        dz = torch.ops.aten.threshold_backward(gradient @ weight, z, 0)
        dx.addcmul_(dz.to(dx.dtype), prologue.scale.to(dx.dtype))
        last = slice(x.shape[1] - finalised_channels, None)
        return Conv1x1Gradients(
            *_scale_and_shift(dz, x, prologue), gradient.T @ z, self.column_reductions(dx[:, last], x[:, last])
        )

    def conv3x3(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, size: Size, *, moments: bool
    ) -> tuple[Tensor, Moments]:
        y = rows(F.conv2d(maps(bn_relu(x, prologue), size), weight, padding=1)).to(x.dtype)
        return y, Moments(*self.statistics(y)) if moments else _NO_MOMENTS

    def conv3x3_backward(
        self, x: Tensor, prologue: BnRelu, weight: Tensor, dy: Tensor | PendingNormBackward, size: Size
    ) -> Conv3x3Gradients:
        dy = dy if isinstance(dy, Tensor) else self.normalise_backward(dy)
        z = bn_relu(x, prologue)
        da, dweight, _ = torch.ops.aten.convolution_backward(
            *(maps(dy.to(z.dtype), size), maps(z, size), weight),
            *(None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]),
        )
        dz = torch.ops.aten.threshold_backward(rows(da), z, 0)
        return Conv3x3Gradients(dz.to(x.dtype), *_scale_and_shift(dz, x, prologue), dweight)

    def bn_relu_pool(self, x: Tensor, prologue: BnRelu, size: Size, pool: int, dtype: torch.dtype) -> Tensor:
        if pool > 1:
            return F.avg_pool2d(maps(bn_relu(x, prologue), size), pool).to(dtype)
        output, pixels = empty_maps(size, x.shape[1], dtype, x.device)
        pixels.copy_(bn_relu(x, prologue))
        return output

    def bn_relu_pool_backward(
        self, x: Tensor, prologue: BnRelu, dy: Tensor, size: Size, pool: int, dtype: torch.dtype
    ) -> PoolGradients:
        images, height, width = size
        z = bn_relu(x, prologue)
        da = maps(dy.to(z.dtype), Size(images, height // pool, width // pool))
        if pool > 1:
            shape = (images, x.shape[1], height, width)
            da = torch.ops.aten.avg_pool2d_backward(
                da, da.new_empty(shape), [pool, pool], [pool, pool], [0, 0], False, True, None
            )
        dz = torch.ops.aten.threshold_backward(rows(da), z, 0)
        return PoolGradients((dz * prologue.scale).to(dtype), *_scale_and_shift(dz, x, prologue))

    def pack_dense_layer(self, conv1x1: Tensor, scale: Tensor, conv3x3: Tensor) -> Tensor:
        return torch.cat(((conv1x1.flatten(1) * scale[:, None]).flatten(), conv3x3.flatten()))

    def block_weights(self, tensors: Sequence[Tensor]) -> Any:
        return tensors

    def dense_block(
        self, x: Tensor, weights: Any, epilogue: PooledBnRelu | None, size: Size, shape: BlockShape
    ) -> Tensor:
        channels, (layers, width, growth) = x.shape[1], shape
        output, features = empty_maps(size, channels + layers * growth, x.dtype, x.device)
        features[:, :channels] = x
        for i in range(layers):
            scale, shift, packed, bias = weights[4 * i : 4 * i + 4]
            seen = channels + i * growth
            conv1x1, conv3x3 = packed.split((width * seen, growth * width * 9))
            z = bn_relu(features[:, :seen], BnRelu(scale, shift))
            h = torch.addmm(bias, z, conv1x1.view(width, seen).T).relu_()
            new = F.conv2d(maps(h, size), conv3x3.view(growth, width, 3, 3), padding=1)
            features[:, seen : seen + growth] = rows(new)
        if epilogue is None:
            return output
        return self.bn_relu_pool(features, epilogue.prologue, size, epilogue.pool, x.dtype)

    def content_digest(self, tensors: Sequence[Tensor]) -> Callable[[], int] | None:
        return None


def bn_relu(x: Tensor, prologue: BnRelu) -> Tensor:
    """relu(x * scale + shift), in the type of scale."""
    return torch.addcmul(prologue.shift, x.to(prologue.scale.dtype), prologue.scale).relu_()


def _scale_and_shift(dz: Tensor, x: Tensor, prologue: BnRelu) -> tuple[Tensor, Tensor]:
    """Gradients of scale and shift."""
    return (dz * (x if prologue.centre is None else x - prologue.centre)).sum(0), dz.sum(0)


def _accumulated(x: Tensor) -> Tensor:
    """Sums of half precision are taken in float32."""
    return x if x.dtype in _EXACT else x.float()
