"""Class activation maps without captum: the ones that captum computes, of the layer that an analysis chooses."""

import pytest
import torch

from densekit.analysis.decision import decide
from densekit.attribution.class_maps import class_maps
from densekit.attribution.grad_cam import grad_cam, layer_for
from densekit.models import DenseNet, create_model
from densekit.models.resnet import ResNet


@pytest.mark.parametrize(
    ("size", "layer"), [(16, "block 2"), (32, "the last feature maps"), (8, "block 1"), (4, "block 1")]
)
def test_maps_are_captums_of_the_same_layer(size: int, layer: str) -> None:
    """Coarse last maps show no place: then an earlier block's are taken."""
    model = create_model("densenet_bc_16_8", image_size=size).eval()
    assert isinstance(model, DenseNet)
    images, classes = torch.randn(5, 3, size, size), torch.tensor([0, 3, 9, 3, 1])
    found = class_maps(model, images, classes)
    assert found is not None
    assert found[0] == layer
    captum = torch.from_numpy(grad_cam(model, images, classes, layer_for(model, images)))
    torch.testing.assert_close(found[1].double(), captum, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["densenet_bc_16_8", "resnet_20"])
def test_the_mean_of_a_map_of_the_last_maps_is_the_logit_without_its_bias(name: str) -> None:
    model = create_model(name).eval()
    image = torch.randn(1, 3, 32, 32)
    found = class_maps(model, image, torch.tensor([4]))
    assert found is not None
    assert isinstance(model, DenseNet | ResNet)
    decision = decide(model, image)
    expected = torch.from_numpy(decision.map_of(4))
    torch.testing.assert_close(found[1][0].double() * expected.numel(), expected, rtol=1e-3, atol=1e-5)
    assert expected.mean().item() == pytest.approx(decision.logits[4] - decision.bias[4].item(), abs=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    model = create_model("densenet_bc_16_8").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        assert class_maps(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1])) is not None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_network_without_maps_of_channels_has_none() -> None:
    model = create_model("timm:vit_tiny_patch16_224").eval()
    assert class_maps(model, torch.randn(1, 3, 224, 224), torch.tensor([0])) is None


@pytest.mark.parametrize(("size", "there"), [(224, True), (64, False)])
def test_one_of_another_library_has_those_of_its_last_maps_unless_they_are_coarse(size: int, there: bool) -> None:
    model = create_model("torchvision:resnet18").eval()
    found = class_maps(model, torch.randn(1, 3, size, size), torch.tensor([0]))
    assert (found is not None) == there
    assert found is None or found[1].shape == (1, 7, 7)
