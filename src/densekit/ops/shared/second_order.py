"""Gradients of a block of the `shared` plan that can be differentiated again: gradient penalties, MAML, Hessians.

Backward asks for them with `create_graph` alone. The block is then computed anew in torch's operators, in the plain
form, with the statistics and dropout masks of its forward pass; whatever is differentiated later is torch's.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.ops.backends.base import maps
from densekit.ops.shared.spec import BlockSpec, Saved, Statistics


class _Placeholder(torch.autograd.Function):
    """Zeros of x's shape, without memory for them, whose gradient is x's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return x.new_zeros(()).expand_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Tensor | None:
        return dy


def placeholder(x: Tensor) -> Tensor:
    """What a node keeps in place of its input x, to know where it came from: zeros to which the values are added."""
    return _Placeholder.apply(x)


def differentiable_gradients(x: Tensor, saved: Saved, spec: BlockSpec, dy: Tensor) -> list[Tensor | None]:
    """Of x and the parameters, in the order of `parameters_of`; None where none is wanted."""
    y = plain_block(x, saved, spec)
    inputs = [x, *(p for group in saved.groups for p in group)]
    found = iter(torch.autograd.grad(y, [t for t in inputs if t.requires_grad], dy, create_graph=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def plain_block(x: Tensor, saved: Saved, spec: BlockSpec) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W), or what the epilogue makes of it, with what its forward pass saved."""

    def bn_relu(x: Tensor, own: Sequence[Tensor], statistics: Statistics) -> Tensor:
        if spec.training:
            return F.batch_norm(x, None, None, own[0], own[1], training=True, eps=spec.eps).relu()
        mean, rstd = statistics
        assert mean is not None
        assert rstd is not None
        scale = own[0] * rstd
        return (x * scale[:, None, None] + (own[1] - mean * scale)[:, None, None]).relu()

    def dropped(x: Tensor, mask: Tensor | None) -> Tensor:
        return x if mask is None else x * maps(mask, spec.size)

    for own, state in zip(saved.groups, saved.states, strict=False):  # the epilogue's group has no state
        h = bn_relu(x, own, Statistics(state.mean1, state.rstd1))
        if len(own) > 3:
            h = dropped(F.conv2d(h, own[2]), state.drop1)
            h = bn_relu(h, own[3:], Statistics(state.mean2, state.rstd2))
        x = torch.cat((x, dropped(F.conv2d(h, own[-1], padding=1), state.drop2)), dim=1)
    if spec.epilogue is None:
        return x
    x = bn_relu(x, saved.groups[-1], saved.epilogue)
    return F.avg_pool2d(x, spec.epilogue.pool) if spec.epilogue.pool > 1 else x
