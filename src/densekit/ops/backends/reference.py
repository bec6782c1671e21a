"""What the `shared` plan is made of, in torch operators: any device, any floating dtype.

Matrices are NHWC seen as rows: M = N*H*W pixels by C channels, rows possibly strided. `ops.backends.cpu` has the same
functions for float32 on a CPU; these are used where it is absent, and are its oracle in the tests.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int, int]  # images, height, width


def matrix(pixels: int, columns: int, like: Tensor) -> Tensor:
    """An empty (pixels, columns) of `like`'s dtype and device."""
    return like.new_empty(pixels, columns)


def padded(x: Tensor) -> Tensor:
    """x, as the other functions read it."""
    return x


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """(M, C) -> mean and biased variance of each column."""
    variance, mean = torch.var_mean(x, 0, unbiased=False)
    return mean, variance


def normalise(x: Tensor, mean: Tensor, rstd: Tensor, out: Tensor) -> None:
    """Writes (x - mean) * rstd to out; all (M, C) by columns (C,)."""
    torch.mul(x - mean, rstd, out=out)


class PendingNorm(NamedTuple):
    """The arguments of `normalise` but the last, for a primitive that does it on its way: (M, K), (K,) and (K,)."""

    maps: Tensor
    mean: Tensor
    rstd: Tensor


def conv1x1(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, pending_norm: PendingNorm | None = None, *, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """relu(x * scale + shift) @ weight.T: (M, C), (N, C) -> (M, N), and its `statistics` if asked for.

    `pending_norm` maps are first normalised into the last columns of x.
    """
    if pending_norm is not None:
        normalise(*pending_norm, x[:, x.shape[1] - pending_norm.maps.shape[1] :])
    h = bn_relu(x, scale, shift) @ weight.T
    return h, *(statistics(h) if moments else (None, None))


def conv1x1_backward(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    centre: Tensor,
    weight: Tensor,
    dz: Tensor,
    h: Tensor,
    coefficients: tuple[Tensor, Tensor, Tensor],
    dx: Tensor,
    finalised_channels: int,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Backward of `conv1x1` whose output h went through a batch norm.

    The gradient of h is a*dz + b*h + c with the three (N,) coefficients. Adds to dx (M, C) what flows to x, and returns
    the gradients of scale, as sum of dz * (x - centre), of shift, of weight (N, C), and the
    `column_reductions` of dx and x in the last `finalised_channels` columns, the maps that nobody else reads.
    """
    a, b, c = coefficients
    dh = dz * a + h * b + c
    z = bn_relu(x, scale, shift)
    gradient = torch.ops.aten.threshold_backward(dh @ weight, z, 0)
    dx.addcmul_(gradient, scale)
    last = slice(x.shape[1] - finalised_channels, None)
    return (gradient * (x - centre)).sum(0), gradient.sum(0), dh.T @ z, column_reductions(dx[:, last], x[:, last])


def conv3x3(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, size: Size) -> Tensor:
    """3x3 convolution, zero padded, of relu(x * scale + shift): (M, C), (K, C, 3, 3) -> (M, K)."""
    return rows(F.conv2d(maps(bn_relu(x, scale, shift), size), weight, padding=1))


class PendingNormBackward(NamedTuple):
    """The arguments of `normalise_backward`, for a primitive that does it on its way: three (M, K), three (K,)."""

    dx: Tensor
    x: Tensor
    direct: Tensor | None
    rstd: Tensor
    mean_dx: Tensor
    mean_product: Tensor


def conv3x3_backward(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    centre: Tensor,
    weight: Tensor,
    dy: Tensor | PendingNormBackward,
    size: Size,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Backward of `conv3x3` up to z = x * scale + shift.

    dy is (M, K), or what `normalise_backward` makes of it. Returns dz (M, C), the sums of dz * (x - centre) and of dz,
    and the gradient of weight.
    """
    dy = dy if isinstance(dy, Tensor) else normalise_backward(*dy)
    z = bn_relu(x, scale, shift)
    da, dweight, _ = torch.ops.aten.convolution_backward(
        maps(dy, size), maps(z, size), weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
    )
    dz = torch.ops.aten.threshold_backward(rows(da), z, 0)
    return dz, (dz * (x - centre)).sum(0), dz.sum(0), dweight


def column_reductions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the columns of x, and of x * y."""
    return x.sum(0), (x * y).sum(0)


def normalise_backward(
    dx: Tensor, x: Tensor, direct: Tensor | None, rstd: Tensor, mean_dx: Tensor, mean_product: Tensor
) -> Tensor:
    """Batch norm backward of normalised maps x (M, C), plus `direct`, what reaches the raw maps by other ways."""
    gradient = rstd * (dx - mean_dx - x * mean_product)
    return gradient if direct is None else gradient + direct


def bn_relu_pool(x: Tensor, scale: Tensor, shift: Tensor, size: Size, pool: int) -> Tensor:
    """relu(x * scale + shift) averaged over pool x pool: (M, C) -> (N, C, H // pool, W // pool) in channels_last."""
    if pool > 1:
        return F.avg_pool2d(maps(bn_relu(x, scale, shift), size), pool)
    output, pixels = empty_maps(size, x.shape[1], x)
    torch.addcmul(shift, x, scale, out=pixels).relu_()
    return output


def bn_relu_pool_backward(
    x: Tensor, scale: Tensor, shift: Tensor, centre: Tensor, dy: Tensor, size: Size, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward of `bn_relu_pool`, dy being (M / pool**2, C).

    Returns the gradient of x, and the sums of dz * (x - centre) and of dz.
    """
    images, height, width = size
    da = maps(dy, (images, height // pool, width // pool))
    if pool > 1:
        shape = (images, x.shape[1], height, width)
        da = torch.ops.aten.avg_pool2d_backward(
            da, da.new_empty(shape), [pool, pool], [pool, pool], [0, 0], False, True, None
        )
    dz = torch.ops.aten.threshold_backward(rows(da), bn_relu(x, scale, shift), 0)
    return dz * scale, (dz * (x - centre)).sum(0), dz.sum(0)


def pack_dense_layer(conv1x1: Tensor, scale: Tensor, kernel: Tensor) -> Tensor:
    """(N, C, 1, 1), (N,), (K, N, 3, 3) -> one vector of weights, the 1x1's times scale, in this module's own order."""
    return torch.cat(((conv1x1.flatten(1) * scale[:, None]).flatten(), kernel.flatten()))


def block_weights(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Each layer's scale, shift, packed weights and bias -> what `dense_block` of the same module takes."""
    return tensors


def dense_block(
    x: Tensor,
    weights: Sequence[Tensor],
    epilogue: tuple[Tensor, Tensor, int] | None,
    size: Size,
    layers: int,
    width: int,
    growth: int,
) -> Tensor:
    """A block of bottleneck layers in evaluation, (M, C) -> (N, C + L*k, H, W) or what `bn_relu_pool` makes of that.

    `width` is a bottleneck's, `growth` k. `epilogue`: scale, shift and pool.
    """
    channels = x.shape[1]
    output, features = empty_maps(size, channels + layers * growth, x)
    features[:, :channels] = x
    for i in range(layers):
        scale, shift, packed, bias = weights[4 * i : 4 * i + 4]
        seen = channels + i * growth
        conv1x1, kernel = packed[: width * seen].view(width, seen), packed[width * seen :].view(growth, width, 3, 3)
        h = torch.addmm(bias, bn_relu(features[:, :seen], scale, shift), conv1x1.T).relu_()
        new = F.conv2d(maps(h, size), kernel, padding=1)
        features[:, seen : seen + growth] = rows(new)
    return output if epilogue is None else bn_relu_pool(features, *epilogue[:2], size, epilogue[2])


def bn_relu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """relu(x * scale + shift)."""
    return torch.addcmul(shift, x, scale).relu_()


def maps(matrix: Tensor, size: Size) -> Tensor:
    """(M, C) -> (N, C, H, W) in channels_last strides, without a copy where rows are contiguous."""
    images, height, width = size
    return matrix.reshape(images, height, width, -1).permute(0, 3, 1, 2)


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (M, C), the values of a row side by side; without a copy from channels_last."""
    matrix = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    # One image in the contiguous format is a matrix already, but a transposed one.
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def empty_maps(size: Size, channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """An empty (N, C, H, W) in channels_last of `like`'s dtype and device, and its rows, to be written through.

    To be returned it must be the tensor, not its view: autograd refuses changes in place of views.
    """
    shape = (size[0], channels, *size[1:])
    output = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    return output, output.permute(0, 2, 3, 1).view(-1, channels)


def memory_format(x: Tensor) -> torch.memory_format:
    """What torch's operators take an (N, C, H, W) tensor's format to be, which they answer in.

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
