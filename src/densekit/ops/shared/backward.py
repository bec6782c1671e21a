"""Backward pass of the `shared` plan."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from densekit.ops import batch_norm
from densekit.ops.backends.base import BatchNormGradient, PendingNormBackward, maps, rows
from densekit.ops.shared.spec import Affine, BlockSpec, LayerState, Saved, Statistics

Sums = tuple[Tensor, Tensor]


class Backward:
    """One backward pass of a block, from its last layer to its first.

    `_gradient` is the sum over all readers so far of what they want of each column of the matrix. A layer's new columns
    are final when the layers behind it are done; in training one batch norm backward then makes them gradients of the
    raw maps.
    """

    def __init__(self, spec: BlockSpec, saved: Saved, count: int) -> None:
        self._spec, self._saved, self._count = spec, saved, count
        self._matrix = spec.kernels.padded(saved.matrix)
        self._direct: Tensor | None = None  # what reaches the raw maps without passing through a normalisation
        self._gradient: Tensor

    def run(self, dy: Tensor, input_wanted: bool) -> tuple[Tensor | None, list[Tensor]]:
        """The gradient of the input, if wanted, and those of the parameters in the order of `parameters_of`."""
        spec = self._spec
        groups = [self._epilogue(dy)] if spec.epilogue else []
        if not spec.epilogue:
            self._begin(dy)
        finalised: Sums | None = None
        for i in reversed(range(len(spec.layers))):
            gradients, finalised = self._dense_layer(i, finalised)
            groups.append(gradients)
        dx = self._input_gradient(finalised) if input_wanted else None
        return dx, [gradient for group in reversed(groups) for gradient in group]

    def _begin(self, dy: Tensor) -> None:
        """Without an epilogue dy is that of the raw maps; in training the matrix has had no reader yet."""
        spec, matrix = self._spec, self._matrix
        self._gradient = spec.kernels.matrix(spec.size.pixels, spec.total, spec.precision.gradient, matrix.device)
        if spec.training:
            self._direct = rows(dy)
            self._gradient.zero_()
        else:
            self._gradient.copy_(rows(dy))

    def _epilogue(self, dy: Tensor) -> list[Tensor]:
        """Of the epilogue's gamma and beta."""
        spec = self._spec
        assert spec.epilogue is not None
        gamma, beta = self._saved.groups[-1]
        norm = Affine(gamma, beta, self._saved.epilogue)
        self._gradient, dscale, dshift = spec.kernels.bn_relu_pool_backward(
            self._matrix, norm.prologue, rows(dy), spec.size, spec.epilogue.pool, spec.precision.gradient
        )
        return [norm.gamma_gradient(dscale), dshift]

    def _dense_layer(self, i: int, finalised: Sums | None) -> tuple[list[Tensor], Sums | None]:
        """A layer's gradients, and the reductions of the columns that are final behind it, where they are known."""
        own, state = self._saved.groups[i], self._saved.states[i]
        norm1 = Affine(own[0], own[1], Statistics(state.mean1, state.rstd1))
        dmaps = self._maps_gradient(i, state.drop2, finalised)
        if self._spec.layers[i].bottleneck:
            return self._bottleneck(i, norm1, dmaps)
        columns = slice(0, self._spec.channels(i))
        found = self._spec.kernels.conv3x3_backward(
            self._matrix[:, columns], norm1.prologue, own[2], dmaps, self._spec.size
        )
        gradient = self._gradient[:, columns]
        gradient.addcmul_(found.z.to(gradient.dtype), norm1.scale.to(gradient.dtype))
        return [norm1.gamma_gradient(found.scale), found.shift, found.weight], None

    def _maps_gradient(self, i: int, drop2: Tensor | None, finalised: Sums | None) -> Tensor | PendingNormBackward:
        """Of what the layer's last convolution gave."""
        spec, columns = self._spec, self._spec.new_columns(i)
        if not spec.training:
            dmaps = self._gradient[:, columns]
            return dmaps if drop2 is None else dmaps * drop2
        pending = self._finalise(columns, finalised)
        return pending if drop2 is None else spec.kernels.normalise_backward(pending) * drop2

    def _bottleneck(
        self, i: int, norm1: Affine, dmaps: Tensor | PendingNormBackward
    ) -> tuple[list[Tensor], Sums | None]:
        """A bottleneck layer's gradients, and the reductions of the columns that are final behind it."""
        spec, own, state = self._spec, self._saved.groups[i], self._saved.states[i]
        h = spec.kernels.padded(cast(Tensor, state.h))
        norm2 = Affine(own[3], own[4], Statistics(state.mean2, state.rstd2))
        conv2 = spec.kernels.conv3x3_backward(h, norm2.prologue, own[5], dmaps, spec.size)
        dgamma2 = norm2.gamma_gradient(conv2.scale)
        dh = self._conv1_gradient(state, h, norm2, conv2.z, (dgamma2, conv2.shift))
        seen = spec.channels(i)
        # The first layer is the last to read the input's columns; any other, those of the layer before it.
        final = (spec.growth if i else seen) if spec.training else 0
        conv1 = spec.kernels.conv1x1_backward(
            *(self._matrix[:, :seen], norm1.prologue, own[2].flatten(1), dh),
            *(self._gradient[:, :seen], final),
        )
        gradients = [norm1.gamma_gradient(conv1.scale), conv1.shift, conv1.weight.view_as(own[2])]
        return [*gradients, dgamma2, conv2.shift, conv2.weight], conv1.finalised

    def _conv1_gradient(
        self, state: LayerState, h: Tensor, norm2: Affine, dz: Tensor, parameters: Sums
    ) -> BatchNormGradient:
        """Of h, behind norm2 and before dropout; `parameters` are the gradients of norm2's gamma and beta."""
        scale = norm2.scale
        if self._spec.training:
            dgamma, dbeta = self._summed(*parameters)
            mean, rstd = cast(Tensor, state.mean2), cast(Tensor, state.rstd2)
            h_scale = -scale * rstd * dgamma / self._count
            dh = BatchNormGradient(dz, h, scale, h_scale, -scale * dbeta / self._count - h_scale * mean)
        else:
            dh = _scaled(dz, scale)
        if state.drop1 is None:
            return dh
        dropped = torch.addcmul(dh.offset, dh.dz, dh.dz_scale).addcmul_(dh.h, dh.h_scale).mul_(state.drop1)
        return _scaled(dropped, torch.ones_like(scale))

    def _finalise(self, columns: slice, known: Sums | None) -> PendingNormBackward:
        """The gradient of raw maps in columns whose readers are all done; `known` are their reductions, if any."""
        spec = self._spec
        dx, x = self._gradient[:, columns], self._matrix[:, columns]
        sums, products = self._summed(*(known or spec.kernels.column_reductions(dx, x)))
        direct = None if self._direct is None else self._direct[:, columns]
        rstd = self._saved.moments[2, columns]
        return PendingNormBackward(dx, x, direct, rstd, sums / self._count, products / self._count)

    def _input_gradient(self, finalised: Sums | None) -> Tensor:
        """(N, C, H, W)."""
        spec, columns = self._spec, slice(0, self._spec.in_channels)
        if spec.training:
            dx = spec.kernels.normalise_backward(self._finalise(columns, finalised))
        else:
            dx = self._gradient[:, columns].clone()  # a view would keep all of it
        return maps(dx, spec.size)

    def _summed(self, *sums: Tensor) -> Sequence[Tensor]:
        """Over all processes that share statistics."""
        return batch_norm.all_reduce_sum(*sums) if self._spec.synchronised else sums


def _scaled(dz: Tensor, scale: Tensor) -> BatchNormGradient:
    """Scale * dz: in two halves of dz, as 0 * h of an infinite h is not 0."""
    half = scale / 2
    return BatchNormGradient(dz, dz, half, half, torch.zeros_like(half))
