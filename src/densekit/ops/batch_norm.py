"""Synchronised batch norm, and the running statistics of any batch norm.

Processes that share a batch exchange mean and variance of every feature map, so that a step has the statistics, and the
gradients, of the whole batch. Each process sends its count, mean and variance, a few float64 numbers a map; they are
merged about the common mean, so that no digit is lost however far that is from 0.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_enabled = True


class SyncedBatchNorm(nn.BatchNorm2d):
    """A batch norm over the images of all processes; alone, and in evaluation, it is `nn.BatchNorm2d`.

    Unlike `nn.SyncBatchNorm` it also runs on a CPU, and the `shared` plan knows it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); N may differ between the processes, but is nowhere 0."""
        if not is_synchronised(self):
            return super().forward(x)
        return cast(Tensor, _Normalise.apply(x, self.weight, self.bias, self))


def convert_sync_batch_norm(model: nn.Module) -> None:
    """Makes every BatchNorm2d below `model` a SyncedBatchNorm with the same tensors, so the same names in state."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                synced = SyncedBatchNorm.__new__(SyncedBatchNorm)
                synced.__dict__ = child.__dict__
                setattr(parent, name, synced)


@contextmanager
def unsynchronised() -> Iterator[None]:
    """Within it batch norms use the statistics of their own process: for a batch that every process has in full."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def is_distributed() -> bool:
    """Whether there are other processes to share statistics with, outside of `unsynchronised`."""
    return _enabled and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_synchronised(norm: nn.Module) -> bool:
    """Whether this norm takes statistics over several processes now; also one that FSDP2 gave a class of its own."""
    return isinstance(norm, SyncedBatchNorm) and norm.training and is_distributed()


def any_synchronised(layers: Sequence[nn.Module]) -> bool:
    """Whether a norm anywhere in these layers, or in what wraps them, `is_synchronised`."""
    return is_distributed() and any(is_synchronised(module) for layer in layers for module in layer.modules())


def all_reduce_min(values: Sequence[int], device: torch.device) -> list[int]:
    """The minimum of each value over all processes."""
    minima = torch.tensor(values, dtype=torch.int32, device=device)
    dist.all_reduce(minima, dist.ReduceOp.MIN)
    return minima.tolist()


def all_reduce_moments(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, int]:
    """(C,) means and biased variances of `count` values here -> those of all processes' values, and their number.

    Chan, Golub and LeVeque's rule, in the order of ranks: all of them get the same bits.
    """
    own = torch.cat((mean.double(), variance.double(), mean.new_tensor([count], dtype=torch.float64)))
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    every = torch.stack(parts)
    means, variances = every[:, :-1].chunk(2, dim=1)
    share = every[:, -1:] / every[:, -1].sum()
    first = (share * means).sum(0)
    second = (share * (variances + (means - first).square())).sum(0)
    return first.to(mean.dtype), second.to(mean.dtype), int(every[:, -1].sum())


def all_reduce_sum(*vectors: Tensor) -> list[Tensor]:
    """(C,) vectors, each summed over all processes."""
    sums = torch.stack(vectors).double()
    dist.all_reduce(sums)
    return list(sums.to(vectors[0].dtype))


def update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Running statistics after a training step: torch's own rule, with the unbiased variance."""
    batches = cast(Tensor, norm.num_batches_tracked).add_(1)
    momentum = 1.0 / float(batches) if norm.momentum is None else norm.momentum
    cast(Tensor, norm.running_mean).mul_(1 - momentum).add_(mean, alpha=momentum)
    cast(Tensor, norm.running_var).mul_(1 - momentum).add_(variance, alpha=momentum * count / (count - 1))


class _Normalise(torch.autograd.Function):
    """Batch norm by pooled statistics, in torch operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        values = x.to(gamma.dtype)  # autocast gives less precise ones
        variance, mean = torch.var_mean(values, (0, 2, 3), unbiased=False)
        mean, variance, count = all_reduce_moments(mean, variance, x.numel() // x.shape[1])
        with torch.no_grad():
            update_running(norm, mean, variance, count)
        ctx.save_for_backward(x, gamma, mean, (variance + norm.eps).rsqrt())
        ctx.count = count
        return F.batch_norm(values, mean, variance, gamma, beta, training=False, eps=norm.eps).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, gamma, mean, rstd = ctx.saved_tensors
        dy = dy.to(gamma.dtype)
        normalised = (x - mean[:, None, None]) * rstd[:, None, None]
        dbeta, dgamma = dy.sum((0, 2, 3)), (dy * normalised).sum((0, 2, 3))
        mean_dy, mean_product = (each[:, None, None] / ctx.count for each in all_reduce_sum(dbeta, dgamma))
        dx = (gamma * rstd)[:, None, None] * (dy - mean_dy - normalised * mean_product)
        return dx.to(x.dtype), dgamma, dbeta, None
