"""The `shared` plan: a dense block that normalises each feature map once.

In training, the batch mean and variance of a map are the same for every layer that reads it; layers differ in gamma and
beta alone. So the block keeps one matrix of normalised maps, layer l reads relu(gamma_l * x + beta_l), and backward
adds up what all consumers want of a normalised map before ONE batch norm backward turns it into the map's gradient.
Nothing is concatenated: the matrix is made once, NHWC, and each layer writes k more columns. Saved for backward: that
matrix and each bottleneck's output, O(L) maps where the plain form saves O(L^2). The batch norm of the epilogue behind
the block (a transition's, or the network's last) is one more consumer, so that the raw maps are not kept at all.

In evaluation every consumer normalises by its own running statistics; the matrix then holds the raw maps, and the rest
is the same.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.ops import batch_norm, guards, second_order
from densekit.ops.backends import cpu, reference
from densekit.ops.batch_norm import update_running


class Layer(Protocol):
    """What a dense layer has to offer; drop1, norm2 and conv2 are there if `bottleneck`."""

    bottleneck: bool
    norm1: nn.BatchNorm2d
    conv1: nn.Conv2d
    drop1: nn.Module
    norm2: nn.BatchNorm2d
    conv2: nn.Conv2d
    drop2: nn.Module


@dataclass(frozen=True)
class Epilogue:
    """The batch norm and ReLU behind a block, and the factor by which an average pool follows them (1: none)."""

    norm: Any
    pool: int


def run(x: Tensor, layers: Sequence[Layer], epilogue: Epilogue | None) -> Tensor:
    """(N, C, H, W) -> (N, C + L*k, H, W), through `epilogue` if there is one; in x's memory format.

    After `guards.can_run`, and `guards.can_fuse_epilogue` for the epilogue.
    """
    parameters = [p for layer in layers for p in _parameters(layer)]
    if epilogue:
        parameters += [epilogue.norm.weight, epilogue.norm.bias]
    return _Block.apply(x, second_order.placeholder(x), layers, epilogue, *parameters)


def _parameters(layer: Layer) -> list[Tensor]:
    own = [layer.norm1.weight, layer.norm1.bias, layer.conv1.weight]
    return [*own, layer.norm2.weight, layer.norm2.bias, layer.conv2.weight] if layer.bottleneck else own


class _Affine:
    """A consumer's batch norm as z = x * scale + shift, x being what the matrix holds.

    Its gradient in gamma is `factor` times the sum of dz * (x - centre).
    """

    def __init__(self, gamma: Tensor, beta: Tensor, mean: Tensor | None, rstd: Tensor | None) -> None:
        self.factor, self._mean = rstd, mean
        if mean is None or rstd is None:  # the matrix is normalised already
            self.scale, self.shift = gamma, beta
        else:
            self.scale = gamma * rstd
            self.shift = beta - mean * self.scale

    @property
    def centre(self) -> Tensor:  # only backward asks for it
        return torch.zeros_like(self.scale) if self._mean is None else self._mean

    def gamma_gradient(self, dscale: Tensor) -> Tensor:
        return dscale if self.factor is None else dscale * self.factor


class _Saved(NamedTuple):
    """What backward needs of a layer beside the matrix; the last five only of a bottleneck's."""

    mean1: Tensor | None
    rstd1: Tensor | None
    drop: Tensor | None
    h: Tensor | None = None
    mean2: Tensor | None = None
    rstd2: Tensor | None = None
    drop1: Tensor | None = None


class _Block(torch.autograd.Function):
    """One node of the graph for a whole block."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        placeholder: Tensor,
        layers: Sequence[Layer],
        epilogue: Epilogue | None,
        *parameters: Tensor,
    ) -> Tensor:
        kernels = _kernels(x)
        images, channels, height, width = x.shape
        size, pixels = (images, height, width), images * height * width
        groups = _grouped(layers, parameters)
        growth = len(groups[0][-1])
        total = channels + len(layers) * growth
        training = layers[0].norm1.training
        pools = batch_norm.is_synchronised(layers[0].norm1)
        count = pixels  # that statistics are taken of

        matrix = kernels.matrix(pixels, total, x)
        # The raw maps leave the block where no epilogue reads the normalised ones.
        output, raw = reference.empty_maps(size, total, x) if epilogue is None else (None, None)
        moments = x.new_empty(3, total)  # mean, biased variance and 1 / standard deviation of each map

        def pool(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal count
            if pools:
                mean, variance, count = batch_norm.all_reduce_moments(mean, variance, pixels)
            return mean, variance

        def append(maps: Tensor, at: int) -> reference.PendingNorm | None:
            """What the next consumer has to normalise into the matrix, if anything."""
            here = slice(at, at + maps.shape[1])
            if raw is not None:
                raw[:, here] = maps
            if training:
                mean, variance = pool(*kernels.statistics(maps))
                moments[0, here], moments[1, here] = mean, variance
                moments[2, here] = rstd = (variance + layers[0].norm1.eps).rsqrt()
                return reference.PendingNorm(maps, mean, rstd)
            matrix[:, here] = maps
            return None

        def normalise(pending_norm: reference.PendingNorm | None, seen: int) -> None:
            if pending_norm is not None:
                kernels.normalise(*pending_norm, matrix[:, seen - pending_norm.maps.shape[1] : seen])

        def consume(norm: nn.BatchNorm2d, seen: int) -> tuple[Tensor | None, Tensor | None]:
            if training:
                update_running(norm, moments[0, :seen], moments[1, :seen], count)
                return None, None
            return _running_statistics(norm)

        pending_norm = append(reference.rows(x), 0)
        states: list[_Saved] = []
        for layer, own in zip(layers, groups, strict=False):
            seen = channels + len(states) * growth
            first = consume(layer.norm1, seen)
            one = _Affine(own[0], own[1], *first)
            if layer.bottleneck:
                drop1 = _dropout_mask(layer.drop1, x, len(own[2]))
                h, mean, variance = kernels.conv1x1(
                    matrix[:, :seen],
                    one.scale,
                    one.shift,
                    own[2].flatten(1),
                    pending_norm,
                    moments=training and drop1 is None,
                )
                if drop1 is not None:
                    h.mul_(drop1)
                if training:
                    if drop1 is not None:
                        mean, variance = kernels.statistics(h)
                    mean, variance = pool(mean, variance)
                    update_running(layer.norm2, mean, variance, count)
                    rstd = (variance + layer.norm2.eps).rsqrt()
                else:
                    mean, rstd = _running_statistics(layer.norm2)
                two = _Affine(own[3], own[4], mean, rstd)
                maps = kernels.conv3x3(h, two.scale, two.shift, own[5], size)
                bottleneck = (h, mean, rstd, drop1)
            else:
                normalise(pending_norm, seen)
                maps = kernels.conv3x3(matrix[:, :seen], one.scale, one.shift, own[2], size)
                bottleneck = None
            drop = _dropout_mask(layer.drop2, x, growth)
            if drop is not None:
                maps.mul_(drop)
            pending_norm = append(maps, seen)
            states.append(_Saved(*first, drop, *(bottleneck or ())))

        normalise(pending_norm, total)
        last: tuple[Tensor | None, Tensor | None] = (None, None)
        if epilogue is not None:
            last = consume(epilogue.norm, total)
            affine = _Affine(groups[-1][0], groups[-1][1], *last)
            output = kernels.bn_relu_pool(matrix, affine.scale, affine.shift, size, epilogue.pool)
        ctx.save_for_backward(matrix, moments, placeholder, *last, *[t for state in states for t in state], *parameters)
        ctx.layers, ctx.epilogue, ctx.size, ctx.training = layers, epilogue, size, training
        ctx.pools, ctx.count = pools, count
        # In the format that came in, as torch's own operators do: dropout behind it draws by memory order.
        return cast(Tensor, output).contiguous(memory_format=reference.memory_format(x))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        # As the convolutions of torch, which are differentiated in the precision of their forward pass.
        with torch.autocast(dy.device.type, enabled=False) if _autocast_enabled(dy) else nullcontext():
            # With create_graph, what backward computes may be differentiated again.
            return _Block.differentiable_gradients(ctx, dy) if torch.is_grad_enabled() else _gradients(ctx, dy)

    @staticmethod
    def differentiable_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.pools:
            raise RuntimeError(
                "gradients of batch statistics over several processes cannot be differentiated again; "
                "compute them in one process, or without create_graph"
            )
        matrix, moments, placeholder, last, states, groups = _unpacked(ctx)
        maps = matrix[:, : placeholder.shape[1]]
        if ctx.training:
            mean, _, rstd = moments[:, : placeholder.shape[1]]
            maps = maps / rstd + mean
        dx, *gradients = second_order.gradients(
            placeholder + reference.maps(maps, ctx.size),
            groups,
            states,
            ctx.epilogue and (*last, ctx.epilogue.pool),
            ctx.layers[0].norm1.eps if ctx.training else None,
            ctx.size,
            dy,
        )
        return dx, None, None, None, *gradients

    @staticmethod
    def gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        layers, epilogue, size = ctx.layers, ctx.epilogue, ctx.size
        matrix, moments, _, last, states, groups = _unpacked(ctx)
        rstds = moments[2]
        kernels = _kernels(matrix)
        matrix = kernels.padded(matrix)  # hooks on saved tensors give copies back
        pixels, total = matrix.shape
        growth = len(groups[0][-1])
        gradients: list[Tensor] = []

        direct = None  # what reaches the raw maps without passing through a normalisation
        if epilogue is None:
            dx_sum = kernels.matrix(pixels, total, matrix)
            if ctx.training:
                direct = reference.rows(dy)
                dx_sum.zero_()
            else:
                dx_sum.copy_(reference.rows(dy))
        else:
            affine = _Affine(*groups[-1], *last)
            dx_sum, dscale, dshift = kernels.bn_relu_pool_backward(
                matrix, affine.scale, affine.shift, affine.centre, reference.rows(dy), size, epilogue.pool
            )
            gradients = [affine.gamma_gradient(dscale), dshift]

        def total_of(*sums: Tensor) -> Sequence[Tensor]:
            return batch_norm.all_reduce_sum(*sums) if ctx.pools else sums

        def closed(here: slice, known: tuple[Tensor, Tensor] | None) -> reference.PendingNormBackward:
            """Gives the raw maps' gradient in columns whose consumers are all done; `known`: their sums."""
            dx, x = dx_sum[:, here], matrix[:, here]
            sums, products = total_of(*(known or kernels.column_reductions(dx, x)))
            extra = None if direct is None else direct[:, here]
            return reference.PendingNormBackward(dx, x, extra, rstds[here], sums / ctx.count, products / ctx.count)

        column_reductions = None
        for i in reversed(range(len(layers))):
            layer, own, state = layers[i], groups[i], states[i]
            seen = total - (len(layers) - i) * growth
            here = slice(seen, seen + growth)
            dmaps = closed(here, column_reductions) if ctx.training else dx_sum[:, here]
            if state.drop is not None:
                raw = dmaps if isinstance(dmaps, Tensor) else kernels.normalise_backward(*dmaps)
                dmaps = raw * state.drop
            one = _Affine(own[0], own[1], state.mean1, state.rstd1)
            if not layer.bottleneck:
                dz, dscale, dshift, dweight = kernels.conv3x3_backward(
                    matrix[:, :seen], one.scale, one.shift, one.centre, own[2], dmaps, size
                )
                dx_sum[:, :seen].addcmul_(dz, one.scale)
                gradients = [one.gamma_gradient(dscale), dshift, dweight, *gradients]
                continue
            h, mean, rstd = (cast(Tensor, t) for t in (state.h, state.mean2, state.rstd2))
            h = kernels.padded(h)
            two = _Affine(own[3], own[4], mean, rstd)
            dz, dscale, dshift, dweight = kernels.conv3x3_backward(
                h, two.scale, two.shift, two.centre, own[5], dmaps, size
            )
            dgamma = two.gamma_gradient(dscale)
            gradients = [dgamma, dshift, dweight, *gradients]
            # norm2 backward, as the gradient of h = a*dz + b*h + c.
            if ctx.training:
                sum_dgamma, sum_dshift = total_of(dgamma, dshift)
                a, b = two.scale, -two.scale * rstd * sum_dgamma / ctx.count
                c = -two.scale * sum_dshift / ctx.count - b * mean
            else:
                h, a, b, c = _scaled(dz, two.scale)
            if state.drop1 is not None:
                dz = torch.addcmul(c, dz, a).addcmul_(h, b).mul_(state.drop1)
                h, a, b, c = _scaled(dz, torch.ones_like(a))
            dscale, dshift, dweight, column_reductions = kernels.conv1x1_backward(
                matrix[:, :seen], one.scale, one.shift, one.centre, own[2].flatten(1), dz, h, (a, b, c),
                dx_sum[:, :seen], (growth if i else seen) if ctx.training else 0,
            )  # fmt: skip
            gradients = [one.gamma_gradient(dscale), dshift, dweight.view_as(own[2]), *gradients]

        wanted = ctx.needs_input_grad
        dx = None
        if wanted[0]:
            here = slice(0, total - len(layers) * growth)
            # In evaluation it is a part of `dx_sum`, all of which it would keep.
            dx = (
                kernels.normalise_backward(*closed(here, column_reductions))
                if ctx.training
                else dx_sum[:, here].clone()
            )
            dx = reference.maps(dx, size)
        return dx, None, None, None, *(g if w else None for g, w in zip(gradients, wanted[4:], strict=True))


class _Unpacked(NamedTuple):
    """What forward saved."""

    matrix: Tensor
    moments: Tensor
    placeholder: Tensor
    last: Sequence[Any]
    states: list[_Saved]
    groups: list[Sequence[Tensor]]


def _unpacked(ctx: Any) -> _Unpacked:
    matrix, moments, placeholder, *rest = ctx.saved_tensors
    last, rest = rest[:2], rest[2:]
    width, count = len(_Saved._fields), len(ctx.layers)
    states = [_Saved(*rest[i * width : (i + 1) * width]) for i in range(count)]
    return _Unpacked(matrix, moments, placeholder, last, states, _grouped(ctx.layers, rest[count * width :]))


def _autocast_enabled(x: Tensor) -> bool:
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _scaled(dz: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, a, b and c for which a*dz + b*h + c is scale*dz: in two halves of dz, as 0*h of an infinite h is not 0."""
    half = scale / 2
    return dz, half, half, torch.zeros_like(half)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Of a block's arguments; for several dy at once, as torch batches them, one after the other."""
    if torch._C._functorch.is_legacy_batchedtensor(dy):  # autograd.grad(..., is_grads_batched=True)
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        batching: Any = torch
    elif torch._C._functorch.is_batchedtensor(dy):  # torch.func.vmap
        level = torch._C._functorch.maybe_get_level(dy)
        batching = torch._C._functorch
    else:
        return _Block.gradients(ctx, dy.resolve_neg())
    every = zip(*(_gradients(ctx, each) for each in batching._remove_batch_dim(dy, level, 0, 0)), strict=True)
    return tuple(None if p[0] is None else batching._add_batch_dim(torch.stack(p), 0, level) for p in every)


def _kernels(x: Tensor) -> Any:
    return cpu if cpu.suits(x) else reference


def _grouped(layers: Sequence[Layer], parameters: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """Parameters by layer, in the order of `_parameters`, and at the end the epilogue's."""
    each = 6 if layers[0].bottleneck else 3
    return [parameters[i : i + each] for i in range(0, len(parameters), each)]


def _running_statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation that a batch norm uses in evaluation."""
    # can_run saw that it tracks them. A copy, as training may go on before backward.
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    return mean.clone(), (variance + norm.eps).rsqrt()


def _dropout_mask(dropout: nn.Module, x: Tensor, channels: int) -> Tensor | None:
    """Factors (M, channels) that torch's own dropout would draw for maps in x's memory format, or None without it."""
    if not guards.is_dropping(dropout):
        return None
    images, _, height, width = x.shape
    ones = x.new_ones(()).expand(images, channels, height, width).contiguous(memory_format=reference.memory_format(x))
    return reference.rows(F.dropout(ones, cast(nn.Dropout, dropout).p))
