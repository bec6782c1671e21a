"""A dense block in evaluation without gradients: one call, its weights folded and packed once.

norm2 goes into the 1x1 convolution; norm1 stays a factor and an offset, as each layer normalises the same maps in its
own way. Where the backend can digest their content, folded weights are kept while the block's layers live, and made
anew when a weight or a statistic was changed, replaced or moved; other backends get theirs folded each time.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from densekit.ops import guards
from densekit.ops.backends.base import BlockShape, BnRelu, KernelBackend, PooledBnRelu, Size, memory_format, rows
from densekit.ops.shared.spec import Epilogue


def can_run(layers: Sequence[Any], kernels: KernelBackend) -> bool:
    """After `guards.can_run`: whether nobody will ask for gradients, and nothing is random."""
    return (
        not torch.is_grad_enabled()
        and layers[0].bottleneck
        and not layers[0].norm1.training
        and not any(guards.is_dropping(layer._modules[name]) for layer in layers for name in ("drop1", "drop2"))
        and (not _made_in_inference_mode(layers) or kernels.content_digest(_sources(layers)) is None)
    )


def cache_get(x: Tensor, layers: Sequence[Any], kernels: KernelBackend) -> Any:
    """The folded weights of these layers, if nothing has changed since that would make them or `can_run` another."""
    if torch.is_grad_enabled():
        return None
    found = _cache.get(layers[0])
    return found.weights if found is not None and found.is_current(x, layers, kernels) else None


def run(
    x: Tensor, layers: Sequence[Any], epilogue: Epilogue | None, kernels: KernelBackend, weights: Any = None
) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W), through `epilogue` if there is one; in x's memory format.

    `weights` are what `cache_get` returned.
    """
    if weights is None:
        weights = _cache_put(x, layers, kernels)
    images, _, height, width = x.shape
    output = kernels.dense_block(
        rows(x),
        weights,
        None if epilogue is None else PooledBnRelu(BnRelu(*_affine(epilogue.norm)), epilogue.pool),
        Size(images, height, width),
        BlockShape(len(layers), layers[0].conv1.out_channels, layers[0].conv2.out_channels),
    )
    return output.contiguous(memory_format=memory_format(x))


class _Sources(NamedTuple):
    """The tensors that folded weights are made from, with their memory: nothing else comes to have its addresses."""

    tensors: list[Tensor]
    storages: list[torch.UntypedStorage]

    @classmethod
    def of(cls, layers: Sequence[Any]) -> "_Sources":
        tensors = _sources(layers)
        return cls(tensors, [t.untyped_storage() for t in tensors])


class _FoldedWeights:
    """A block's weights as a backend's `dense_block` reads them, and what they were made from."""

    def __init__(
        self,
        x: Tensor,
        layers: Sequence[Any],
        kernels: KernelBackend,
        sources: _Sources,
        digest: Callable[[], int],
    ) -> None:
        self._kernels, self._channels, self._dtype = kernels, x.shape[1], x.dtype
        self._snapshot = guards.Snapshot(layers)
        self._sources = sources
        self._state = _state(sources.tensors)
        self._digest = digest
        self._content = digest()
        # Last: what changes the sources meanwhile, in another thread, is seen by the next call.
        self.weights = kernels.block_weights(_fold(layers, kernels))

    def is_current(self, x: Tensor, layers: Sequence[Any], kernels: KernelBackend) -> bool:
        # Versions see every change that torch knows of; the digest those through Tensor.data or NumPy, of a single bit.
        return (
            kernels is self._kernels
            and x.shape[1] == self._channels
            and x.dtype == self._dtype
            and self._snapshot.matches(x, layers)
            and _state(self._sources.tensors) == self._state
            and self._digest() == self._content
        )


_cache: WeakKeyDictionary[nn.Module, _FoldedWeights] = WeakKeyDictionary()


def _cache_put(x: Tensor, layers: Sequence[Any], kernels: KernelBackend) -> Any:
    """Folds, for this call and, if the backend digests, for those that `cache_get` them."""
    sources = _Sources.of(layers)
    digest = kernels.content_digest(sources.tensors)
    if digest is None:
        return kernels.block_weights(_fold(layers, kernels))
    with torch.inference_mode(False), torch.no_grad():
        found = _cache[layers[0]] = _FoldedWeights(x, layers, kernels, sources, digest)
    return found.weights


def _fold(layers: Sequence[Any], kernels: KernelBackend) -> list[Tensor]:
    """For each layer norm1's scale and shift, packed weights, and bias."""
    tensors: list[Tensor] = []
    for layer in layers:
        scale, bias = _affine(layer.norm2)
        packed = kernels.pack_dense_layer(layer.conv1.weight, scale, layer.conv2.weight)
        tensors += [*_affine(layer.norm1), packed, bias]
    return tensors


def _made_in_inference_mode(layers: Sequence[Any]) -> bool:
    """Such tensors carry no version by which a change would be seen."""
    return any(t.is_inference() for t in _sources(layers))


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


def _state(sources: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [(t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.is_neg()) for t in sources]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation as factor and offset."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight.detach() * (variance + norm.eps).rsqrt()
    return scale, norm.bias.detach() - mean * scale
