"""densenet121 is timm's, number for number, in float64: its weights are ours, key by key."""

import pytest
import torch
from torch import Tensor, nn

from densekit import create_model

timm = pytest.importorskip("timm")

Twins = tuple[nn.Module, nn.Module]


def perturb(model: nn.Module) -> None:
    """Fresh batch norms are the identity, and would hide a pair that is swapped."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def twins() -> Twins:
    peer = timm.create_model("densenet121", num_classes=7)
    perturb(peer)
    model = create_model("densenet121", num_classes=7, image_size=64)
    model.load_state_dict(peer.state_dict(), strict=True)
    return peer.double(), model.double()


def test_logits_of_densenet121_are_timms(twins: Twins) -> None:
    """Also with pooling first in transitions, which timm does not do."""
    peer, model = (net.eval() for net in twins)
    with torch.inference_mode():
        torch.testing.assert_close(model(images()), peer(images()), rtol=1e-10, atol=1e-10)


def test_a_training_step_of_densenet121_is_timms(twins: Twins) -> None:
    """Every gradient, and every running statistic updated once (recomputing peers do it twice, pytorch #96136)."""
    weights = torch.randn(2, 7, dtype=torch.float64)
    for net in twins:
        (net.train()(images()) * weights).sum().backward()
    peer, model = twins
    mine = dict(model.named_parameters())
    for name, theirs in peer.named_parameters():
        # The scale is the tensor's own: two images make some statistics nearly singular, and their gradients large.
        assert theirs.grad is not None
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(mine[name].grad, theirs.grad, rtol=1e-7, atol=1e-9 * (1 + scale), msg=name)
    buffers = dict(model.named_buffers())
    for name, expected in peer.named_buffers():
        torch.testing.assert_close(buffers[name], expected, rtol=1e-9, atol=1e-10, msg=name)
