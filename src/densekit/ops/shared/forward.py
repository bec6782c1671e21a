"""Forward pass of the `shared` plan."""

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from densekit.ops import batch_norm, guards
from densekit.ops.backends.base import Moments, PendingNorm, empty_maps, memory_format, rows
from densekit.ops.shared.spec import (
    NORMALISED,
    Affine,
    BlockSpec,
    Layer,
    LayerState,
    Saved,
    Statistics,
    moments_matrix,
    running_statistics,
)


class Forward:
    """One forward pass of a block; `run` gives its output, then `saved` what backward needs.

    New maps are normalised into the matrix by their first reader, on its way through it: until then they are pending.
    """

    def __init__(self, spec: BlockSpec, x: Tensor, groups: list[Sequence[Tensor]]) -> None:
        self._spec, self._x, self._groups = spec, x, groups
        size = spec.size
        self._matrix = spec.kernels.matrix(size.pixels, spec.total, spec.precision.storage, x.device)
        self._moments = moments_matrix(spec, x.device)
        self._output: Tensor | None = None
        self._raw: Tensor | None = None
        if spec.epilogue is None:  # where an epilogue reads the normalised maps, the raw ones do not leave the block
            self._output, self._raw = empty_maps(size, spec.total, x.dtype, x.device)
        self._count = size.pixels  # values that a map's statistics are taken of
        self._states: list[LayerState] = []
        self._epilogue = NORMALISED

    def run(self) -> Tensor:
        """(N, C + L*k, H, W), or what the epilogue makes of it; in the memory format of the input."""
        spec = self._spec
        pending = self._append(rows(self._x), slice(0, spec.in_channels))
        for i, layer in enumerate(spec.layers):
            pending = self._dense_layer(i, layer, pending)
        self._normalise(pending, spec.total)
        output = self._run_epilogue() if spec.epilogue else cast(Tensor, self._output)
        # As torch's own operators do: dropout behind it draws by memory order.
        return output.contiguous(memory_format=memory_format(self._x))

    def saved(self, placeholder: Tensor) -> Saved:
        """For backward."""
        return Saved(self._matrix, self._moments, placeholder, self._epilogue, self._states, self._groups)

    @property
    def count(self) -> int:
        """Values, in all processes, that a map's statistics are taken of."""
        return self._count

    def _dense_layer(self, i: int, layer: Layer, pending: PendingNorm | None) -> PendingNorm | None:
        spec, own = self._spec, self._groups[i]
        seen = spec.channels(i)
        statistics = self._read_by(layer.norm1, seen)
        norm1 = Affine(own[0], own[1], statistics)
        drops2 = guards.is_dropping(layer.drop2)
        if layer.bottleneck:
            h, norm2, drop1 = self._bottleneck(i, layer, norm1, pending)
            read, prologue, weight = h, Affine(own[3], own[4], norm2).prologue, own[5]
            bottleneck: tuple[Tensor | None, ...] = (h, *norm2, drop1)
        else:
            self._normalise(pending, seen)
            read, prologue, weight = self._matrix[:, :seen], norm1.prologue, own[2]
            bottleneck = ()
        moments = spec.training and not drops2
        maps, found = spec.kernels.conv3x3(read, prologue, weight, spec.size, moments=moments)
        drop2 = dropout_mask(layer.drop2, self._x, spec.growth) if drops2 else None
        if drop2 is not None:
            maps.mul_(drop2)
        self._states.append(LayerState(*statistics, drop2, *bottleneck))
        return self._append(maps, spec.new_columns(i), found)

    def _bottleneck(
        self, i: int, layer: Layer, norm1: Affine, pending: PendingNorm | None
    ) -> tuple[Tensor, Statistics, Tensor | None]:
        """The output h of conv1 (M, B), what norm2 normalises it by, and the dropout mask that went into it."""
        spec, weight = self._spec, self._groups[i][2]
        drop1 = dropout_mask(layer.drop1, self._x, len(weight))
        h, moments = spec.kernels.conv1x1(
            self._matrix[:, : spec.channels(i)],
            norm1.prologue,
            weight.flatten(1),
            pending,
            moments=spec.training and drop1 is None,
        )
        if drop1 is not None:
            h.mul_(drop1)
        if not spec.training:
            return h, running_statistics(layer.norm2), drop1
        mean, variance = self._pooled(h, moments)
        batch_norm.update_running(layer.norm2, mean, variance, self._count)
        return h, Statistics(mean, (variance + layer.norm2.eps).rsqrt()), drop1

    def _append(self, maps: Tensor, columns: slice, moments: Moments | None = None) -> PendingNorm | None:
        """Takes new maps (M, K) into the block; what its next reader has to normalise into the matrix, if anything."""
        if self._raw is not None:
            self._raw[:, columns] = maps
        if not self._spec.training:
            self._matrix[:, columns] = maps
            return None
        mean, variance = self._pooled(maps, moments)
        self._moments[0, columns], self._moments[1, columns] = mean, variance
        self._moments[2, columns] = rstd = (variance + self._spec.eps).rsqrt()
        return PendingNorm(maps, mean, rstd)

    def _pooled(self, maps: Tensor, moments: Moments | None) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of maps, over all processes; `moments` are those of this one, if known."""
        mean, variance = moments or (None, None)
        if mean is None or variance is None:
            mean, variance = self._spec.kernels.statistics(maps)
        if self._spec.synchronised:
            mean, variance, self._count = batch_norm.all_reduce_moments(mean, variance, self._spec.size.pixels)
        return mean, variance

    def _normalise(self, pending: PendingNorm | None, seen: int) -> None:
        """Writes pending maps to the last of the `seen` columns."""
        if pending is not None:
            self._spec.kernels.normalise(pending, self._matrix[:, seen - pending.maps.shape[1] : seen])

    def _read_by(self, norm: nn.BatchNorm2d, seen: int) -> Statistics:
        """What a reader of the first `seen` columns normalises them by; in training its running buffers are updated."""
        if not self._spec.training:
            return running_statistics(norm)
        batch_norm.update_running(norm, self._moments[0, :seen], self._moments[1, :seen], self._count)
        return NORMALISED

    def _run_epilogue(self) -> Tensor:
        spec = self._spec
        assert spec.epilogue is not None
        self._epilogue = self._read_by(spec.epilogue.norm, spec.total)
        gamma, beta = self._groups[-1]
        prologue = Affine(gamma, beta, self._epilogue).prologue
        return spec.kernels.bn_relu_pool(self._matrix, prologue, spec.size, spec.epilogue.pool, self._x.dtype)


def dropout_mask(dropout: nn.Module, x: Tensor, channels: int) -> Tensor | None:
    """Factors (M, channels) that torch's own dropout would draw for maps in x's memory format, or None without it."""
    if not guards.is_dropping(dropout):
        return None
    images, _, height, width = x.shape
    ones = x.new_ones(()).expand(images, channels, height, width).contiguous(memory_format=memory_format(x))
    return rows(F.dropout(ones, cast(nn.Dropout, dropout).p))
