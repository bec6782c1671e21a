"""densenet121 is torchvision's and timm's, number for number, in float64: their weights are ours, key by key."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision.models
from torch import Tensor, nn

from densekit import create_model
from tests.weights.peers import perturb

Twins = tuple[nn.Module, nn.Module]
PEERS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: torchvision.models.densenet121(num_classes=7),
    "timm": lambda: timm.create_model("densenet121", num_classes=7),
}


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=PEERS)
def twins(request: pytest.FixtureRequest) -> Twins:
    peer = perturb(PEERS[request.param]())
    model = create_model("densenet121", num_classes=7, image_size=64)
    model.load_state_dict(peer.state_dict(), strict=True)
    return peer.double(), model.double()


def test_logits_of_densenet121_are_the_peers(twins: Twins) -> None:
    """Also with pooling first in transitions, which neither of them does."""
    peer, model = (net.eval() for net in twins)
    with torch.inference_mode():
        torch.testing.assert_close(model(images()), peer(images()), rtol=1e-10, atol=1e-10)


def test_a_training_step_of_densenet121_is_the_peers(twins: Twins) -> None:
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
