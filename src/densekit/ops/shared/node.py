"""A dense block as one node of autograd's graph."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from densekit.ops.backends.base import KernelBackend, Precision, maps
from densekit.ops.shared.backward import Backward
from densekit.ops.shared.forward import Forward
from densekit.ops.shared.second_order import differentiable_gradients, placeholder
from densekit.ops.shared.spec import BlockSpec, Epilogue, Layer, Saved, grouped, parameters_of, spec_of


def run(
    x: Tensor, layers: Sequence[Layer], epilogue: Epilogue | None, kernels: KernelBackend, precision: Precision
) -> Tensor:
    """A dense block, after `guards.can_run` and, for the epilogue, `guards.can_fuse_epilogue`.

    Args:
        x: (N, C, H, W).
        layers: of the block, in order.
        epilogue: what reads all of its maps, or None.
        kernels: what computes the primitives.
        precision: the types that these have for such a call.

    Returns:
        (N, C + L*k, H, W), or (N, C + L*k, H // pool, W // pool) through the epilogue; in x's memory format.
    """
    spec = spec_of(kernels, precision, x, layers, epilogue)
    return _Block.apply(x, placeholder(x), spec, *parameters_of(layers, epilogue))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, placeholder: Tensor, spec: BlockSpec, *parameters: Tensor) -> Tensor:
        block = Forward(spec, x, grouped(spec.layers, parameters))
        output = block.run()
        ctx.save_for_backward(*block.saved(placeholder).flat())
        ctx.spec, ctx.count = spec, block.count
        return output

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        # As the convolutions of torch, which are differentiated in the precision of their forward pass.
        with torch.autocast(dy.device.type, enabled=False) if _autocast_enabled(dy) else nullcontext():
            # With create_graph, what backward computes may be differentiated again.
            return _differentiable_gradients(ctx, dy) if torch.is_grad_enabled() else _gradients(ctx, dy)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Of the node's arguments; for several dy at once, as torch batches them, one after the other."""
    if torch._C._functorch.is_legacy_batchedtensor(dy):  # autograd.grad(..., is_grads_batched=True)
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        batching: Any = torch
    elif torch._C._functorch.is_batchedtensor(dy):  # torch.func.vmap
        level = torch._C._functorch.maybe_get_level(dy)
        batching = torch._C._functorch
    else:
        return _gradients_of_one(ctx, dy.resolve_neg())
    every = zip(*(_gradients(ctx, each) for each in batching._remove_batch_dim(dy, level, 0, 0)), strict=True)
    return tuple(None if p[0] is None else batching._add_batch_dim(torch.stack(p), 0, level) for p in every)


def _gradients_of_one(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    input_wanted, _, _, *parameters_wanted = ctx.needs_input_grad
    saved = Saved.unflatten(ctx.spec.layers, ctx.saved_tensors)
    dx, gradients = Backward(ctx.spec, saved, ctx.count).run(dy, input_wanted)
    wanted = zip(gradients, parameters_wanted, strict=True)
    return dx, None, None, *(gradient if is_wanted else None for gradient, is_wanted in wanted)


def _differentiable_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    spec: BlockSpec = ctx.spec
    if spec.synchronised:
        raise RuntimeError(
            "gradients of batch statistics over several processes cannot be differentiated again; "
            "compute them in one process, or without create_graph"
        )
    saved = Saved.unflatten(spec.layers, ctx.saved_tensors)
    values = saved.matrix[:, : spec.in_channels]
    if spec.training:
        mean, _, rstd = saved.moments[:, : spec.in_channels]
        values = values / rstd + mean
    dx, *gradients = differentiable_gradients(saved.placeholder + maps(values, spec.size), saved, spec, dy)
    return dx, None, None, *gradients


def _autocast_enabled(x: Tensor) -> bool:
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
