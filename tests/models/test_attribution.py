"""Methods of attribution that go by modules, as captum's and SHAP's DeepLIFT: every ReLU is one, and is called once."""

import pytest
import torch
from torch import Tensor, nn

from densekit import create_model
from densekit.models import ImageClassifier
from densekit.ops import PLANS

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def network(name: str, plan: str = "auto") -> ImageClassifier:
    """In evaluation, with norms and a head far from their initial values, so that every part of it matters."""
    model = create_model(name, plan=plan)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    model(torch.randn(8, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("name", ["densenet_bc_16_8", "densenet_10_8", "resnet_8", "preact_resnet_20"])
@pytest.mark.filterwarnings("ignore::UserWarning:captum")
def test_deeplift_adds_up_to_the_change_of_the_logit(name: str) -> None:
    captum = pytest.importorskip("captum.attr", reason="needs the extra analysis")
    model, black = network(name), torch.zeros_like(IMAGES)
    images = IMAGES.clone().requires_grad_()
    _, missing = captum.DeepLift(model).attribute(images, black, target=1, return_convergence_delta=True)
    with torch.no_grad():
        change = (model(images) - model(black))[:, 1]
    assert change.abs().min() > 0.1
    torch.testing.assert_close(missing, torch.zeros(2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("gradients", [True, False])
def test_the_last_relu_is_a_module_that_hooks_and_replacements_reach(plan: str, gradients: bool) -> None:
    model = network("densenet_bc_16_8", plan)
    seen: list[Tensor] = []
    with torch.set_grad_enabled(gradients):
        model(IMAGES)  # what was folded for inference must not hide a later hook
        handle = model.relu5.register_forward_hook(lambda _, inputs, output: seen.extend((*inputs, output)))
        features = model.forward_features(IMAGES)
        handle.remove()
        raw, output = seen
        assert torch.equal(output, features)
        torch.testing.assert_close(raw, model.features(IMAGES))
        assert raw.min() < 0
        model.relu5 = nn.GELU()
        torch.testing.assert_close(model.forward_features(IMAGES), nn.functional.gelu(raw))
        torch.testing.assert_close(model.forward_intermediates(IMAGES)[0], nn.functional.gelu(raw))
