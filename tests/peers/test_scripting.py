"""torch.jit.script and trace, torch.fx: what torchvision's and timm's DenseNets allow, ours do, to the same numbers."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from densekit import create_model
from densekit.models import ImageClassifier
from densekit.ops import PLANS
from tests.narrow import expect_type

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning:torch", "ignore:The TorchScript type system:UserWarning"
)
NETS = ["densenet_bc_16_8", "densenet_10_8", "resnet_8", "preact_resnet_20"]
PLANNED = [*((name, "auto") for name in NETS), *(("densenet_bc_16_8", plan) for plan in PLANS if plan != "auto")]


def network(name: str, plan: str = "auto", **settings: Any) -> ImageClassifier:
    """In evaluation, with running statistics that fit."""
    model = create_model(name, plan=plan, **settings)
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


def assert_same(compiled: nn.Module, model: nn.Module, channels: int = 3) -> None:
    """In evaluation and training, at another size than any that was seen."""
    x = torch.randn(3, channels, 40, 36)
    for training in (False, True):
        found = []
        for each in (model, compiled):
            each.train(training)
            torch.manual_seed(3)  # of dropout
            found.append(each(x))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    model.eval()


@pytest.mark.parametrize(("name", "plan"), PLANNED)
def test_a_scripted_network_has_the_names_and_numbers(name: str, plan: str) -> None:
    model = network(name, plan)
    scripted = torch.jit.script(model)
    assert scripted.state_dict().keys() == model.state_dict().keys()
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    assert_same(torch.jit.load(file), model)
    with torch.no_grad():
        frozen = torch.jit.freeze(scripted.eval())
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(frozen(x), model.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("site", ["conv1x1", "conv3x3", "transition"])
@pytest.mark.parametrize("way", [torch.jit.script, torch.fx.symbolic_trace])
def test_dropout_of_a_compiled_network_still_follows_the_mode(site: str, way: Callable[[nn.Module], nn.Module]) -> None:
    model = network("densenet_bc_16_8", dropout_rate=0.5, dropout_sites=(site,))
    assert_same(way(model), model)


@pytest.mark.parametrize(
    ("name", "part", "settings"),
    [
        *(("densenet_bc_16_8", part, {"dropout_rate": 0.5}) for part in ("denseblock1", "denselayer2", "transition1")),
        ("densenet_bc_16_8", "features", {}),
        ("densenet_10_8", "features", {}),
        ("resnet_8", "stages", {}),
        ("preact_resnet_20", "stages", {}),
    ],
)
def test_a_part_of_a_network_is_scripted_by_itself(name: str, part: str, settings: dict[str, Any]) -> None:
    """As the bodies of torchvision's detectors are."""
    model = network(name, **settings)
    path = next(path for path, _ in model.named_modules() if path.split(".")[-1] == part)
    module = model.get_submodule(path)
    first = next(each for each in module.modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d))
    channels = first.in_channels if isinstance(first, nn.Conv2d) else first.num_features
    scripted = torch.jit.script(module)
    assert scripted.state_dict().keys() == module.state_dict().keys()
    assert_same(scripted, module, channels)
    assert type(model.get_submodule(path)) is type(module)


def test_other_libraries_networks_are_scripted_under_their_names() -> None:
    model = create_model("torchvision:resnet18").eval()
    assert torch.jit.script(model).state_dict().keys() == model.state_dict().keys()


def test_a_network_with_modules_of_others_is_scripted() -> None:
    """A LoRA-like convolution in a layer, group norm in another, and the whole in somebody's module."""

    class Wrapped(nn.Module):
        def __init__(self, conv: nn.Conv2d) -> None:
            super().__init__()
            self.conv = conv
            self.up = nn.Conv2d(conv.in_channels, conv.out_channels, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + self.up(x)

    model = network("densenet_bc_16_8")
    layer = model.get_submodule("features.denseblock2.denselayer1")
    layer.conv1 = Wrapped(expect_type(layer.conv1, nn.Conv2d))
    layer.norm2 = nn.GroupNorm(4, expect_type(layer.norm2, nn.BatchNorm2d).num_features)
    outer = nn.Sequential(model, nn.LogSoftmax(1)).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = outer(x)
    torch.testing.assert_close(torch.jit.script(outer)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "plan"), PLANNED)
def test_a_traced_network_computes_the_same_at_other_sizes_and_batches(name: str, plan: str) -> None:
    model = network(name, plan)
    x, other = torch.randn(2, 3, 32, 32), torch.randn(5, 3, 40, 36)
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        for images in (x, other):
            torch.testing.assert_close(traced(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_a_symbolic_graph_computes_the_same(name: str) -> None:
    model = network(name)
    assert_same(torch.fx.symbolic_trace(model), model)
