"""A dense block in evaluation without gradients: one call, its weights folded and packed once.

norm2 goes into the 1x1 convolution; norm1 stays a factor and an offset, as each layer normalises the same maps in its
own way. What was folded for the kernels is kept while the block's layers live, and made anew when a weight or a
statistic was changed, replaced or moved. Torch's operators get theirs folded each time.
"""

import ctypes
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from densekit.ops import guards
from densekit.ops.backends import cpu, reference
from densekit.ops.backends.cpu import BlockWeights
from densekit.ops.shared import Epilogue


def can_run(x: Tensor, layers: Sequence[Any]) -> bool:
    """After `guards.can_run`: whether nobody will ask for gradients, and nothing is random."""
    return (
        not torch.is_grad_enabled()
        and layers[0].bottleneck
        and not layers[0].norm1.training
        and not any(guards.is_dropping(layer._modules[name]) for layer in layers for name in ("drop1", "drop2"))
        # Such tensors carry no version to watch.
        and not (cpu.suits(x) and any(t.is_inference() for t in _sources(layers)))
    )


def cache_get(x: Tensor, layers: Sequence[Any]) -> BlockWeights | None:
    """What was folded of these layers before, if nothing has changed since that would make it or `can_run` another."""
    if torch.is_grad_enabled() or not cpu.suits(x):
        return None
    found = _cache.get(layers[0])
    return found.weights if found is not None and found.is_current(x, layers) else None


def run(x: Tensor, layers: Sequence[Any], epilogue: Epilogue | None, weights: Any = None) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W), through `epilogue` if there is one; in x's memory format.

    `weights` are what `cache_get` returned.
    """
    kernels: Any = cpu if cpu.suits(x) else reference
    if weights is None:
        weights = _cache_put(x, layers) if kernels is cpu else reference.block_weights(_fold(layers, reference))
    images, _, height, width = x.shape
    output = kernels.dense_block(
        reference.rows(x),
        weights,
        None if epilogue is None else (*_affine(epilogue.norm), epilogue.pool),
        (images, height, width),
        len(layers),
        layers[0].conv1.out_channels,
        layers[0].conv2.out_channels,
    )
    return output.contiguous(memory_format=reference.memory_format(x))


class _FoldedWeights:
    """A block's weights as `cpu.dense_block` reads them, and what they were made from."""

    def __init__(self, x: Tensor, layers: Sequence[Any]) -> None:
        self._channels = x.shape[1]
        self._snapshot = guards.Snapshot(layers)
        # Kept, and their memory too, so that nothing else can come to have their identities and addresses.
        self._sources = _sources(layers)
        self._storages = [t.untyped_storage() for t in self._sources]
        self._state = _state(self._sources)
        self._pointers = (ctypes.c_void_p * len(self._sources))(*(t.data_ptr() for t in self._sources))
        self._sizes = (ctypes.c_ssize_t * len(self._sources))(*(_extent(t) for t in self._sources))
        self._digest = cpu.digest(self._pointers, self._sizes)
        self.weights = cpu.block_weights(_fold(layers, cpu))

    def is_current(self, x: Tensor, layers: Sequence[Any]) -> bool:
        # Versions see every change that torch knows of; the digest those through Tensor.data or NumPy, of a single bit.
        return (
            x.shape[1] == self._channels
            and self._snapshot.matches(x, layers)
            and _state(self._sources) == self._state
            and cpu.digest(self._pointers, self._sizes) == self._digest
        )


_cache: WeakKeyDictionary[nn.Module, _FoldedWeights] = WeakKeyDictionary()


def _cache_put(x: Tensor, layers: Sequence[Any]) -> BlockWeights:
    """Folds, for this call and those that `cache_get` it."""
    with torch.inference_mode(False), torch.no_grad():
        found = _cache[layers[0]] = _FoldedWeights(x, layers)
    return found.weights


def _fold(layers: Sequence[Any], kernels: Any) -> list[Tensor]:
    """For each layer norm1's scale and shift, packed weights, and bias."""
    tensors: list[Tensor] = []
    for layer in layers:
        scale, bias = _affine(layer.norm2)
        packed = kernels.pack_dense_layer(layer.conv1.weight, scale, layer.conv2.weight)
        tensors += [*_affine(layer.norm1), packed, bias]
    return tensors


def _sources(layers: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for layer in layers:
        modules = layer._modules
        for name in ("norm1", "norm2"):
            norm = modules[name]
            found += norm._parameters.values()
            found += (norm._buffers["running_mean"], norm._buffers["running_var"])
        found += (modules["conv1"]._parameters["weight"], modules["conv2"]._parameters["weight"])
    return found


def _extent(tensor: Tensor) -> int:
    """Values from the first to the last in memory: an expanded parameter has fewer than elements."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _state(sources: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [(t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.is_neg()) for t in sources]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation as factor and offset."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight.detach() * (variance + norm.eps).rsqrt()
    return scale, norm.bias.detach() - mean * scale
