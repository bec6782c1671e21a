"""Class activation maps: the published ones, on every plan, and a check that tells when they mean nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from densekit.analysis import activation_maps
from densekit.analysis.image_sample import Sample
from densekit.attribution import grad_cam
from densekit.weights import model_folder, read_card
from tests.analysis.conftest import Trained, densenet_in

pytest.importorskip("captum")


@pytest.fixture
def network(tiny_run: Path) -> Trained:
    return densenet_in(tiny_run)


@torch.no_grad()
def test_the_last_maps_give_zhous_class_activation_map(network: Trained, digits: Sample) -> None:
    model, _ = network
    classes = torch.arange(24) % 10
    found = grad_cam.grad_cam(model, digits.images, classes)
    features = model.forward_features(digits.images)
    expected = (
        torch.einsum("nc,nchw->nhw", model.get_parameter("classifier.weight")[classes], features)
        / features[0, 0].numel()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("plan", ["auto", "checkpoint", "shared"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_maps_are_the_same_on_every_plan(network: Trained, digits: Sample, plan: str, block: int) -> None:
    model, _ = network
    classes = torch.arange(24) % 10
    model.use_plan("concat")
    expected = grad_cam.grad_cam(model, digits.images, classes, block)
    model.use_plan(plan)
    np.testing.assert_allclose(grad_cam.grad_cam(model, digits.images, classes, block), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("plan", ["concat", "checkpoint", "shared"])
def test_captum_can_watch_a_layer_inside_a_block(network: Trained, digits: Sample, plan: str) -> None:
    """A hook inside makes a plan run the plain form."""
    from captum.attr import LayerActivation, LayerGradCam, Saliency

    model, _ = network
    model.use_plan("concat")
    layer = model.get_submodule("features.denseblock2.denselayer1.conv2")
    whole, target = model(digits.images), torch.arange(24) % 10
    wanted = [
        LayerGradCam(model, layer).attribute(digits.images, target=target),
        LayerActivation(model, layer).attribute(digits.images),
        Saliency(model).attribute(digits.images.clone().requires_grad_(), target=target),
    ]
    model.use_plan(plan)
    found = [
        LayerGradCam(model, layer).attribute(digits.images, target=target),
        LayerActivation(model, layer).attribute(digits.images),
        Saliency(model).attribute(digits.images.clone().requires_grad_(), target=target),
    ]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model(digits.images), whole, rtol=1e-4, atol=1e-4)


def test_small_maps_are_not_shown_where_there_are_finer_ones(network: Trained, digits: Sample) -> None:
    model, _ = network
    assert grad_cam.layer_for(model, digits.images[:1]) == 1  # 8x8 digits end in 2x2 maps
    assert grad_cam.layer_for(model, torch.randn(1, 1, 32, 32)) == 0
    assert grad_cam.layer_for(model, torch.randn(1, 1, 16, 16)) == 2


def test_the_check_randomises_from_the_top_to_all_of_it(network: Trained, digits: Sample, tiny_run: Path) -> None:
    model, _ = network
    found = activation_maps.activation_maps(model, read_card(model_folder(tiny_run)), digits)
    assert found.steps == ["classifier", "block 3", "block 2", "block 1"]
    assert found.layer == "dense block 1"
    assert 1 <= len(found.items) <= 8
    for item in found.items:
        assert len(item.cascade) == len(found.steps)
        assert item.map.shape == item.randomised.shape == (8, 8)
        assert 0 <= item.correlation <= 1
        assert item.follows == (item.correlation <= activation_maps.FOLLOWS)


def test_a_map_that_ignores_the_weights_is_found_out(
    network: Trained, digits: Sample, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What draws the picture whatever the network is does not follow the weights."""
    monkeypatch.setattr(activation_maps, "grad_cam", lambda _model, images, *_: images[:, 0].double().numpy())
    model, _ = network
    found = activation_maps.activation_maps(model, read_card(model_folder(tiny_run)), digits)
    assert all(item.correlation == pytest.approx(1) for item in found.items)
    assert not any(item.follows for item in found.items)
