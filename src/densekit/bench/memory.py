"""What a training step keeps and what it needs at its peak; in a fresh process, as memory once used stays with one."""

import resource
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from densekit.bench.runners import Training
from densekit.training import allocator


def saved_bytes(training: Training) -> int:
    """Of what autograd holds between forward and backward: every storage once, without parameters and buffers."""
    net = training.net
    own = {tensor.untyped_storage()._cdata for tensor in (*net.parameters(), *net.buffers())}
    kept: dict[int, Tensor] = {}  # holding them, or a later storage might get the number of one that is gone

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(net(training.images), training.labels)
    total = sum(tensor.untyped_storage().nbytes() for number, tensor in kept.items() if number not in own)
    del loss
    return total


def peak_bytes(training: Training, *, whole: bool) -> int:
    """Resident memory of one step at its highest, above what the process holds before it: the network, its
    gradients and the optimiser's momentum.

    The step before it, with which libraries come up, is of two images, or of the `whole` batch where code is compiled
    for its size.
    """
    few = len(training.images) if whole else 2
    training.step(training.images[:few], training.labels[:few])
    allocator.give_back()  # what is kept of that step would hide as much of the next
    before = _resident()
    _forget_peak()
    training()
    return max(0, _peak() - before)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # then the peak is that of the process, which the step raises


def _resident() -> int:
    return _status("VmRSS:") or _lifetime_peak()


def _peak() -> int:
    return _status("VmHWM:") or _lifetime_peak()


def _status(key: str) -> int:
    """Linux's own account, in bytes; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def _lifetime_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
