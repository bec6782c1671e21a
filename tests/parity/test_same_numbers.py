"""Our DenseNet is torchvision's and timm's, number for number, in float64."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet as TorchvisionDenseNet

from densekit.config import DenseNetConfig
from densekit.models import DenseNet

SHAPE = {"growth_rate": 8, "blocks": (2, 3, 2, 2)}


def ours() -> DenseNet:
    config = DenseNetConfig(
        name="small", stem="imagenet", stem_channels=16, num_classes=7, image_size=(64, 64), **SHAPE
    )
    return DenseNet(config)


def torchvisions() -> nn.Module:
    return TorchvisionDenseNet(growth_rate=8, block_config=(2, 3, 2, 2), num_init_features=16, num_classes=7)


def timms() -> nn.Module:
    return timm.models.DenseNet(growth_rate=8, block_config=(2, 3, 2, 2), num_classes=7)


def perturb(model: nn.Module) -> None:
    """Batch norms whose every number matters."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


def stem_of(state: dict[str, Any]) -> int:
    return len(state["features.conv0.weight"])


@pytest.fixture(params=[torchvisions, timms], ids=["torchvision", "timm"])
def twins(request: pytest.FixtureRequest) -> tuple[nn.Module, DenseNet]:
    peer = request.param()
    perturb(peer)
    state = peer.state_dict()
    config = ours().config.model_copy(update={"stem_channels": stem_of(state)})
    model = DenseNet(config)
    model.load_state_dict(state, strict=True)
    return peer.double(), model.double()


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_logits_are_equal_in_evaluation(twins: tuple[nn.Module, DenseNet]) -> None:
    peer, model = twins
    torch.testing.assert_close(model.eval()(images()), peer.eval()(images()), rtol=1e-12, atol=1e-12)


def test_gradients_and_buffers_are_equal_after_a_training_step(twins: tuple[nn.Module, DenseNet]) -> None:
    peer, model = twins
    inputs = [images().requires_grad_() for _ in twins]
    for net, x in zip(twins, inputs, strict=True):
        net.train()(x).square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-11)
    theirs, mine = dict(peer.named_parameters()), dict(model.named_parameters())
    assert theirs.keys() == mine.keys()
    for name, parameter in mine.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-9, atol=1e-11, msg=name)
    for (name, expected), actual in zip(peer.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12, msg=name)


def test_densenet121_has_torchvisions_keys_and_shapes() -> None:
    from torchvision.models import densenet121

    from densekit import create_model

    with torch.device("meta"):
        theirs = {name: t.shape for name, t in densenet121().state_dict().items()}
        mine = {name: t.shape for name, t in create_model("densenet121").state_dict().items()}
    assert mine == theirs
