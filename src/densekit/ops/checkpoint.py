"""The `checkpoint` plan: forget each layer's concatenation, norm1, ReLU and conv1, and recompute them in backward.

Batch norm buffers are updated once, in the forward pass proper; peers update them again when they recompute (gpleiss
#33, pytorch #96136).
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run(x: Tensor, layers: Sequence[Any]) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W)."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return _concat(x, layers)
    features = [x]
    for layer in layers:
        contexts = partial(_contexts, layer.norm1)
        entry = checkpoint(_enter, layer, *features, use_reentrant=False, context_fn=contexts)
        features.append(layer.leave(entry))
    return torch.cat(features, dim=1)


def _concat(x: Tensor, layers: Sequence[Any]) -> Tensor:
    for layer in layers:
        x = torch.cat((x, layer(x)), dim=1)
    return x


def _enter(layer: Any, *features: Tensor) -> Tensor:
    return layer.enter(torch.cat(features, dim=1) if len(features) > 1 else features[0])


def _contexts(norm: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _frozen(norm)


@contextmanager
def _frozen(norm: nn.Module) -> Iterator[None]:
    """Running statistics are updated in copies, which are thrown away."""
    kept = norm._buffers
    norm._buffers = {name: None if buffer is None else buffer.clone() for name, buffer in kept.items()}
    try:
        yield
    finally:
        norm._buffers = kept
