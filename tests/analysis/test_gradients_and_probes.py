"""Implicit deep supervision: gradients are those of every plan, probes find what is there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densekit.analysis import gradients, probes
from densekit.analysis.connectivity import blocks_of
from densekit.analysis.image_sample import Sample
from densekit.config import DenseNetConfig, ExternalConfig, ResNetConfig
from densekit.models import config_for, create_model
from densekit.models.cost import cost_of
from densekit.models.resnet import ResNet
from tests.analysis.conftest import Trained
from tests.narrow import expect_type, not_none


@pytest.mark.parametrize("plan", ["auto", "checkpoint", "shared"])
def test_gradients_are_the_same_on_every_plan(trained: Trained, digits: Sample, plan: str) -> None:
    model, _ = trained
    model.use_plan("concat")
    expected = gradients.flow("net", "trained", model, digits)
    model.use_plan(plan)
    found = gradients.flow("net", "trained", model, digits)
    assert found.layers == expected.layers
    np.testing.assert_allclose(found.norm, expected.norm, rtol=1e-3)


def test_a_layers_gradient_is_that_of_its_convolutions(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = gradients.flow("net", "trained", model, digits)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)  # the network is a guest
    model.train()
    F.cross_entropy(model(digits.images), digits.targets).backward()
    layer = model.get_submodule("features.denseblock2.denselayer1")
    weights = [p for name, p in layer.named_parameters() if "conv" in name]
    norm = torch.cat([not_none(w.grad).flatten() for w in weights]).norm().item()
    at = found.layers.index("denseblock2.denselayer1")
    assert found.norm[at] == pytest.approx(norm, rel=1e-3)
    assert found.rms[at] == pytest.approx(norm / sum(w.numel() for w in weights) ** 0.5, rel=1e-3)
    assert found.layers[0] == "conv0"
    assert found.layers[-1] == "classifier"


def test_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = create_model("densenet_10_4", dropout_rate=0.5, image_size=8)
    sample = Sample(torch.randn(4, 3, 8, 8), torch.arange(4))
    assert gradients.flow("a", "b", model, sample).rms == gradients.flow("a", "b", model, sample).rms


@pytest.mark.parametrize("name", ["densenet_40_12", "densenet_bc_100_12", "densenet_bc_22_12"])
def test_the_residual_network_beside_is_as_deep(name: str) -> None:
    config = expect_type(config_for(name), DenseNetConfig)
    beside = gradients.matched(config, cost_of(config).depth)
    assert isinstance(beside, ResNetConfig)
    assert abs(beside.depth - cost_of(config).depth) <= 3
    assert beside.num_classes == config.num_classes


def test_of_photographs_it_is_torchvisions() -> None:
    config = expect_type(config_for("densenet121"), DenseNetConfig).model_copy(update={"num_classes": 7})
    beside = gradients.matched(config, 121)
    assert isinstance(beside, ExternalConfig)
    assert (beside.name, beside.num_classes) == ("resnet101", 7)


def test_probes_find_what_a_layer_knows_and_only_that() -> None:
    random = np.random.default_rng(0)
    labels = torch.arange(200) % 2

    def features(sample: Sample) -> dict[str, probes.Features]:
        told = sample.targets.numpy()[:, None] + random.normal(0, 0.1, (len(sample), 1))
        silent = random.normal(size=(len(sample), 3))
        return {"own": {"silent": silent.astype(np.float32), "telling": told.astype(np.float32)}}

    train = Sample(torch.zeros(200, 1, 1, 1), labels)
    (curve,) = probes.probe("net", features, train, train)
    assert curve.accuracy[1] == 1
    assert curve.accuracy[0] < 0.65
    assert curve.position == [0.5, 1.0]


def test_features_of_a_depth_are_the_means_of_its_maps(trained: Trained, digits: Sample) -> None:
    model, card = trained
    blocks = blocks_of(model)
    found = probes.densenet_features(model, blocks, digits)
    maps = model.forward_intermediates(digits.images)[1][1]
    name = "block 2, layer 1"
    channels = blocks[1].sources[1]
    np.testing.assert_allclose(found["own"][name], maps[:, channels].mean((2, 3)).detach(), atol=1e-5)
    np.testing.assert_allclose(found["state"][name], maps[:, : channels.stop].mean((2, 3)).detach(), atol=1e-5)
    assert found["own"][name].shape == (24, expect_type(card.model, DenseNetConfig).growth_rate)


def test_residual_networks_are_probed_block_by_block() -> None:
    model = expect_type(create_model("resnet_8", image_size=8, in_channels=1), ResNet).eval()
    found = probes.resnet_features(model, Sample(torch.randn(5, 1, 8, 8), torch.arange(5)))["state"]
    assert [x.shape for x in found.values()] == [(5, 16), (5, 16), (5, 32), (5, 64)]


def test_the_first_layers_are_compared_with_the_last_without_stem_and_classifier() -> None:
    flow = gradients.Flow("net", "untrained", list("abcdefghij"), [99.0, 4, 6, 1, 1, 1, 1, 2, 3, 77], [])
    assert flow.reach == 5 / 2.5
    assert gradients.Flow("net", "untrained", list("ab"), [6.0, 2], []).reach == 3
