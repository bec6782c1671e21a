"""The primitives of `ops.backends.reference` for float32 on a CPU, compiled from the C++ beside this file.

Same names, signatures and meaning. Rows of a `matrix` are padded to whole vectors, which the kernels rely on.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.ops.backends.cpu.library import library
from densekit.ops.backends.reference import PendingNorm, PendingNormBackward, Size, empty_maps

LANES = 16  # floats of the widest vector, to which rows and vectors are padded
_HUGE = 4 << 20  # bytes from which huge pages are asked for


def available() -> bool:
    """Whether kernels were compiled at installation and this processor runs them."""
    return library() is not None


def build_name() -> str:
    """Which kernels run here: avx512, avx2 or baseline, or none."""
    found = library()
    return found[0] if found else "none"


def suits(x: Tensor) -> bool:
    """Whether these primitives can work on x."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and available()


def matrix(pixels: int, columns: int, like: Tensor) -> Tensor:
    """An empty (pixels, columns), each row padded to whole vectors."""
    whole = like.new_empty(pixels, -(-columns // LANES) * LANES)
    if whole.nbytes >= _HUGE:
        _library().densekit_advise(whole.data_ptr(), whole.nbytes)
    return whole[:, :columns]


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    _call("statistics", x, x.stride(0), mean, variance, *x.shape)
    return mean, variance


def normalise(x: Tensor, mean: Tensor, rstd: Tensor, out: Tensor) -> None:
    _call("normalise", x, x.stride(0), mean, rstd, out, out.stride(0), *x.shape)


def conv1x1(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, pending_norm: PendingNorm | None = None, *, moments: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    h, weight = matrix(len(x), len(weight), x), weight.contiguous()
    mean, variance = (x.new_empty(len(weight)), x.new_empty(len(weight))) if moments else (None, None)
    maps, maps_mean, rstd = (None, None, None) if pending_norm is None else pending_norm
    _call(
        "conv1x1", x, x.stride(0), *_strided(maps), maps_mean, rstd, 0 if maps is None else maps.shape[1],
        scale, shift, weight, h, h.stride(0), mean, variance, *x.shape, len(weight)
    )  # fmt: skip
    return h, mean, variance


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
    weight, dz, h = weight.contiguous(), padded(dz), padded(h)
    dscale, dshift, dweight = scale.new_empty(scale.shape), scale.new_empty(scale.shape), weight.new_empty(weight.shape)
    sums, products = x.new_empty(finalised_channels), x.new_empty(finalised_channels)
    _call(
        "conv1x1_backward", x, x.stride(0), scale, shift, centre, weight, dz, dz.stride(0), h, h.stride(0),
        *coefficients, dx, dx.stride(0), dscale, dshift, dweight, finalised_channels, sums, products,
        *x.shape, len(weight)
    )  # fmt: skip
    return dscale, dshift, dweight, (sums, products)


def conv3x3(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, size: Size) -> Tensor:
    y = matrix(len(x), len(weight), x)
    _call("conv3x3", x, x.stride(0), scale, shift, weight, y, y.stride(0), *size, x.shape[1], len(weight))
    return y


def conv3x3_backward(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    centre: Tensor,
    weight: Tensor,
    dy: Tensor | PendingNormBackward,
    size: Size,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dz = matrix(x.shape[0], x.shape[1], x)
    dscale, dshift, dweight = scale.new_empty(scale.shape), scale.new_empty(scale.shape), weight.new_empty(weight.shape)
    dmaps, maps, direct, *vectors = (dy, *[None] * 5) if isinstance(dy, Tensor) else dy
    _call(
        "conv3x3_backward", x, x.stride(0), scale, shift, centre, weight, *_strided(dmaps), *_strided(maps),
        *_strided(direct), *vectors, dz, dz.stride(0), dscale, dshift, dweight, *size, x.shape[1], len(weight)
    )  # fmt: skip
    return dz, dscale, dshift, dweight


def column_reductions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    sums, products = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    _call("column_reductions", x, x.stride(0), y, y.stride(0), sums, products, *x.shape)
    return sums, products


def normalise_backward(
    dx: Tensor, x: Tensor, direct: Tensor | None, rstd: Tensor, mean_dx: Tensor, mean_product: Tensor
) -> Tensor:
    out = matrix(x.shape[0], x.shape[1], x)
    _call(
        "normalise_backward", *_strided(dx), *_strided(x), *_strided(direct), rstd, mean_dx, mean_product,
        out, out.stride(0), *x.shape
    )  # fmt: skip
    return out


def bn_relu_pool(x: Tensor, scale: Tensor, shift: Tensor, size: Size, pool: int) -> Tensor:
    output, y = empty_maps((size[0], size[1] // pool, size[2] // pool), x.shape[1], x)
    _call("bn_relu_pool", x, x.stride(0), scale, shift, y, x.shape[1], *size, x.shape[1], pool)
    return output


def bn_relu_pool_backward(
    x: Tensor, scale: Tensor, shift: Tensor, centre: Tensor, dy: Tensor, size: Size, pool: int
) -> tuple[Tensor, Tensor, Tensor]:
    dx = matrix(x.shape[0], x.shape[1], x)
    dscale, dshift = scale.new_empty(scale.shape), scale.new_empty(scale.shape)
    _call(
        "bn_relu_pool_backward", x, x.stride(0), scale, shift, centre, dy, dy.stride(0), dx, dx.stride(0),
        dscale, dshift, *size, x.shape[1], pool
    )  # fmt: skip
    return dx, dscale, dshift


def pack_dense_layer(conv1x1: Tensor, scale: Tensor, kernel: Tensor) -> Tensor:
    built = _library()
    width, channels = conv1x1.shape[:2]
    packed = conv1x1.new_empty(built.densekit_dense_layer_size(channels, width, len(kernel)))
    sources = [t.detach().contiguous() for t in (conv1x1.flatten(1), scale, kernel)]
    built.densekit_pack_dense_layer(*(t.data_ptr() for t in (*sources, packed)), channels, width, len(kernel))
    return packed


class BlockWeights:
    """Addresses for `dense_block`, and what lies there, padded to whole vectors."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [F.pad(t, (0, -len(t) % LANES)).contiguous() for t in tensors]
        self.addresses = (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in self._tensors))


def block_weights(tensors: Sequence[Tensor]) -> BlockWeights:
    return BlockWeights(tensors)


def dense_block(
    x: Tensor,
    weights: BlockWeights,
    epilogue: tuple[Tensor, Tensor, int] | None,
    size: Size,
    layers: int,
    width: int,
    growth: int,
) -> Tensor:
    images, height, width_ = size
    channels = x.shape[1]
    scale, shift, pool = epilogue or (None, None, 0)
    shape = (images, height // max(pool, 1), width_ // max(pool, 1))
    output, out = empty_maps(shape, channels + layers * growth, x)
    _call(
        "dense_block", x, x.stride(0), weights.addresses, scale, shift, pool, out, *size,
        channels, layers, width, growth,
    )  # fmt: skip
    return output


def digest(pointers: Any, sizes: Any) -> int:
    """Of all bits of several arrays of floats."""
    found = ctypes.c_uint64()
    _call("digest", pointers, sizes, len(pointers), ctypes.byref(found))
    return found.value


def padded(x: Tensor) -> Tensor:
    """x, or a padded copy where a whole vector of its last row would leave its memory, as in a slice of columns."""
    if x.stride(1) != 1 and x.shape[1] > 1:
        return matrix(x.shape[0], x.shape[1], x).copy_(x)
    width = -(-x.shape[1] // LANES) * LANES
    if 4 * (x.storage_offset() + (len(x) - 1) * x.stride(0) + width) <= x.untyped_storage().nbytes():
        return x
    return matrix(x.shape[0], x.shape[1], x).copy_(x)


def _strided(x: Tensor | None) -> tuple[Tensor | None, int]:
    return x, 0 if x is None else x.stride(0)


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None
    return found[1]


def _call(name: str, *arguments: Any) -> None:
    threads = torch.get_num_threads()
    values = []
    held = []  # copies, which must live until the kernel returns
    for value in arguments:
        if isinstance(value, Tensor):
            # A matrix brings its stride with it; weights (channels_last perhaps) and vectors do not.
            if value.dim() == 2:
                assert value.stride(1) == 1 or value.shape[1] == 1
            else:
                held.append(value := value.contiguous())
            value = value.data_ptr()
        values.append(value)
    if getattr(_library(), f"densekit_{name}")(*values, threads):
        raise MemoryError(f"the {name} kernel found no memory for its scratch")
