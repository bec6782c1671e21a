"""Gradients of a block of the `shared` plan that can be differentiated again: gradient penalties, MAML, Hessians.

Backward asks for them with `create_graph` alone. The block is then computed anew in torch's operators, in the plain
form, with the statistics and dropout masks of its forward pass; whatever is differentiated later is torch's.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.ops.backends import reference


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


def gradients(
    x: Tensor,
    groups: Sequence[Sequence[Tensor]],
    states: Sequence[Any],
    epilogue: tuple[Tensor | None, Tensor | None, int] | None,
    eps: float | None,
    size: reference.Size,
    dy: Tensor,
) -> list[Tensor | None]:
    """Of x and the parameters, those of `groups` in their order; None where none is wanted.

    `states` and `eps` as `block` takes them.
    """
    y = block(x, groups, states, epilogue, eps, size)
    inputs = [x, *(p for group in groups for p in group)]
    found = iter(torch.autograd.grad(y, [t for t in inputs if t.requires_grad], dy, create_graph=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def block(
    x: Tensor,
    groups: Sequence[Sequence[Tensor]],
    states: Sequence[Any],
    epilogue: tuple[Tensor | None, Tensor | None, int] | None,
    eps: float | None,
    size: reference.Size,
) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W), through `epilogue` (mean, 1 / standard deviation, pool) if there is one.

    `groups` are the parameters of each layer and of the epilogue, `states` what the forward pass saved of each layer.
    `eps` is that of norms in training, None in evaluation.
    """

    def rectified(x: Tensor, own: Sequence[Tensor], mean: Tensor | None, rstd: Tensor | None) -> Tensor:
        if eps is not None:
            return F.batch_norm(x, None, None, own[0], own[1], training=True, eps=eps).relu()
        assert mean is not None
        assert rstd is not None
        scale = own[0] * rstd
        return (x * scale[:, None, None] + (own[1] - mean * scale)[:, None, None]).relu()

    def dropped(x: Tensor, mask: Tensor | None) -> Tensor:
        return x if mask is None else x * reference.maps(mask, size)

    for own, state in zip(groups, states, strict=False):  # the epilogue's group has no state
        h = rectified(x, own, state.mean1, state.rstd1)
        if len(own) > 3:
            h = dropped(F.conv2d(h, own[2]), state.drop1)
            h = rectified(h, own[3:], state.mean2, state.rstd2)
        x = torch.cat((x, dropped(F.conv2d(h, own[-1], padding=1), state.drop)), dim=1)
    if epilogue is None:
        return x
    x = rectified(x, groups[-1], epilogue[0], epilogue[1])
    return F.avg_pool2d(x, epilogue[2]) if epilogue[2] > 1 else x
