"""The `checkpoint` plan: drop each layer's concatenation, norm1, ReLU and conv1, and recompute them in backward.

Batch norm buffers are updated once, in the forward pass proper; other implementations update them again when they
recompute (gpleiss #33, pytorch #96136). The tensors that are read again are checked as autograd checks those that it
saves: an error if they were changed in place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from densekit.ops import batch_norm
from densekit.ops.guards import is_recomputable


def run(x: Tensor, layers: Sequence[Any]) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W)."""
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        recomputed = [False] * len(layers)
    else:
        recomputed = [is_recomputable(layer) for layer in layers]
    if batch_norm.any_synchronised(layers):
        recomputed = [bool(each) for each in batch_norm.all_reduce_min(recomputed, x.device)]
    features = [x]
    for layer, again in zip(layers, recomputed, strict=True):
        if again:
            # Nothing in it is random.
            entry = checkpoint(_RecomputedConv1(layer), *features, use_reentrant=False, preserve_rng_state=False)
            features.append(layer.after_conv1(entry))
        else:
            features.append(layer(_concatenate(features)))
    return torch.cat(features, dim=1)


def _concatenate(features: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat(features, dim=1) if len(features) > 1 else features[0]


class _RecomputedConv1:
    """norm1, ReLU and conv1 of a layer, as they were when they were first called."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._called = layer, False
        self._norm, self._relu, self._conv = _shallow_copy(layer.norm1), layer.relu1, _shallow_copy(layer.conv1)
        if not batch_norm.is_synchronised(layer.norm1):
            self._norm.__class__ = nn.BatchNorm2d  # also if backward is called where it would
        kept = [*self._norm._parameters.values(), *self._conv._parameters.values()]
        if not self._norm.training:
            kept += self._norm._buffers.values()
        self._versions = [(t, t._version) for t in kept if t is not None and not t.is_inference()]

    def __call__(self, *features: Tensor) -> Tensor:
        if not self._called:
            self._called = True
            self._versions += [(t, t._version) for t in features if not t.is_inference()]
            return self._layer.through_conv1(_concatenate(features))
        for tensor, version in self._versions:
            if tensor._version != version:
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"a {tuple(tensor.shape)} that a layer read is at version {tensor._version}, expected {version}"
                )
        if self._norm.training:  # it updates copies, which are thrown away
            self._norm._buffers = {
                name: None if buffer is None else buffer.clone() for name, buffer in self._norm._buffers.items()
            }
        return self._conv(self._relu(self._norm(_concatenate(features))))


def _shallow_copy(module: nn.Module) -> Any:
    """A module of the same tensors, mode and settings, which keeps them when the original gets others."""
    twin = type(module).__new__(type(module))
    twin.__dict__ = {
        name: dict(value) if name in ("_parameters", "_buffers") else value for name, value in module.__dict__.items()
    }
    return twin
