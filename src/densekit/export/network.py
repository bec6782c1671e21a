"""The network as it is exported: batch norms folded into convolutions where that is exact, transitions pooling first.

A dense layer's first norm stays: what it reads is read by all later layers too, each with a norm of its own.
Folding is done in float64, so that a weight is rounded once.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from densekit.config import Preprocessing
from densekit.models.densenet import DenseLayer, Transition


class Exported(nn.Module):
    """(N, C, H, W) normalised float32 -> (N, classes); with `preprocessing` (N, H, W, C) uint8, as decoders give it."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.model = folded(model)
        self.inside = preprocessing is not None
        self.mean: Tensor
        self.std: Tensor
        if preprocessing is not None:
            self.register_buffer("mean", torch.tensor(preprocessing.mean)[:, None, None])
            self.register_buffer("std", torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.inside:
            # In this order, as the loader does it, so that it gives the same bits.
            x = (x.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return self.model(x)


def folded(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode and float32 that computes the same with fewer operations."""
    net = copy.deepcopy(model).cpu().double().eval()
    for module in list(net.modules()):
        if isinstance(module, DenseLayer) and module.bottleneck:
            _fold(module, "conv1", "norm2")
        elif isinstance(module, Transition):
            module.pool_first = True
            if not isinstance(module.relu, nn.ReLU):
                _fold_forward(module)
        elif isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            for before, after in pairwise([*module._modules]):
                _fold(module, before, after)
    return net.float()


def _fold(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    """Into the convolution before, if that is what stands there and nobody else uses it."""
    conv, norm = owner._modules[conv_name], owner._modules[norm_name]
    if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
        setattr(owner, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(owner, norm_name, nn.Identity())


def _fold_forward(transition: Transition) -> None:
    """Into the 1x1 convolution behind it; without padding a constant is the same at every pixel."""
    norm, conv = transition.norm, transition.conv
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        fused = nn.Conv2d(conv.in_channels, conv.out_channels, kernel_size=1).to(conv.weight.dtype)
        fused.weight.copy_(conv.weight * scale[:, None, None])
        assert fused.bias is not None
        fused.bias.copy_(conv.weight.flatten(1) @ shift)
    transition.conv, transition.norm = fused, nn.Identity()  # type: ignore[assignment]  # no norm is left, only its place
