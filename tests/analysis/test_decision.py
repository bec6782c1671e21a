"""One answer explained: the maps and parts are sums that come out as the logit, and no hook is needed."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.analysis import reuse
from densekit.analysis.connectivity import blocks_of
from densekit.analysis.decision import decide, has_maps, has_reuse
from densekit.analysis.image_sample import Sample
from densekit.models import DenseNet, create_model
from densekit.models.densenet import DenseBlock, DenseLayer
from densekit.models.resnet import ResNet
from densekit.weights import load_model, model_folder
from tests.analysis.conftest import Trained
from tests.narrow import expect_type


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features_by_hand(model: DenseNet, image: Tensor) -> NDArray[np.float64]:
    """The last maps from single modules, in float64, without densekit's plans."""
    x = image.double()
    model = model.double()
    for module in model.features:
        if not isinstance(module, DenseBlock):
            x = module(x)
            continue
        for layer in module.values():
            y = layer.get_submodule("conv1")(layer.get_submodule("norm1")(x).relu())
            if expect_type(layer, DenseLayer).bottleneck:
                y = layer.get_submodule("conv2")(layer.get_submodule("norm2")(y).relu())
            x = torch.cat((x, y), 1)
    return x.relu()[0].numpy()


def test_the_map_is_the_weights_times_the_last_maps_and_its_mean_the_logit(trained: Trained, image: Tensor) -> None:
    model, _ = trained
    decision = decide(model, image)
    logits = model(image)[0].detach().numpy()
    features = features_by_hand(model, image)
    weight, bias = (p.detach().double().numpy() for p in model.get_submodule("classifier").parameters())
    for index in range(10):
        by_hand = sum(weight[index, c] * features[c] for c in range(len(features)))
        np.testing.assert_allclose(decision.map_of(index), by_hand, rtol=1e-4, atol=1e-5)
        assert decision.map_of(index).mean() + bias[index] == pytest.approx(decision.logits[index], rel=1e-12)
    np.testing.assert_allclose(decision.logits, logits, rtol=1e-4, atol=1e-4)


def test_the_parts_of_a_score_are_what_it_loses_without_each_source(trained: Trained, image: Tensor) -> None:
    """A source is cut by zeroing its channels in front of the classifier; the head is linear, so that is its part."""
    model, _ = trained
    decision = decide(model, image)
    block = blocks_of(model)[-1]
    features = torch.from_numpy(features_by_hand(model, image))
    whole = model.forward_head(features[None])[0]
    for index in (0, 7):
        parts = decision.parts_of(index)
        assert len(parts) == block.layers + 1
        for part, channels in zip(parts, block.sources, strict=True):
            cut = features.clone()
            cut[channels] = 0
            lost = (whole - model.forward_head(cut[None])[0])[index].item()
            assert part == pytest.approx(lost, rel=1e-4, abs=1e-5)
        total = parts.sum() + model.get_parameter("classifier.bias")[index].item()
        assert total == pytest.approx(decision.logits[index], rel=1e-6)


@pytest.mark.parametrize("plan", ["auto", "concat", "checkpoint", "shared"])
def test_reuse_of_an_image_is_what_hooks_see(trained: Trained, image: Tensor, plan: str) -> None:
    """`by_activation` watches each convolution; here the same follows from the blocks' outputs alone."""
    model, _ = trained
    model.use_plan("concat")
    expected = reuse.by_activation(model, blocks_of(model), Sample(image, torch.zeros(1, dtype=torch.int64)))
    model.use_plan(plan)
    found = decide(model, image).reuse
    assert len(found) == len(expected) == 3
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_reuse_without_a_transitions_relu(image: Tensor) -> None:
    made = create_model("densenet_bc_10_8", in_channels=1, image_size=8, transition_relu=False)
    model = expect_type(made, DenseNet).eval()
    expected = reuse.by_activation(model, blocks_of(model), Sample(image, torch.zeros(1, dtype=torch.int64)))
    for a, b in zip(decide(model, image).reuse, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_explaining_disturbs_no_other_thread(trained: Trained, image: Tensor) -> None:
    """Hooks would: what one thread sees would be the other's."""
    model, _ = trained
    others = torch.randn(8, 1, 8, 8)
    with torch.inference_mode():
        wanted = model(others)
    alone = decide(model, image)
    wrong, stop = [], threading.Event()

    def predict() -> None:
        with torch.inference_mode():
            while not stop.is_set():
                if not torch.allclose(model(others), wanted, rtol=1e-4, atol=1e-4):
                    wrong.append("a prediction changed")

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(20):
            found = decide(model, image)
            for a, b in zip(found.reuse, alone.reuse, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_a_resnet_has_maps_but_no_reuse(image: Tensor) -> None:
    model = expect_type(create_model("resnet_20", in_channels=1, image_size=8), ResNet).eval()
    assert has_maps(model)
    assert not has_reuse(model)
    decision = decide(model, image)
    assert decision.reuse == ()
    np.testing.assert_allclose(decision.logits, model(image)[0].detach(), rtol=1e-4, atol=1e-5)


def test_nothing_is_claimed_of_networks_without_a_linear_head(tiny_run: Path) -> None:
    model, _ = load_model(model_folder(tiny_run))
    assert has_reuse(model)
    model.reset_classifier(0)
    assert not has_maps(model)
    assert not has_reuse(model)
    assert not has_maps(torch.nn.Linear(2, 2))
