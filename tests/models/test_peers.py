"""Networks of torchvision and timm work as ours do, without their weights."""

import copy
import sys
import warnings
from typing import Literal

import pytest
import torch
import torchvision.models as torchvision_models

from densekit.config import ExternalConfig
from densekit.errors import InvalidInput, UnknownName
from densekit.models import build, config_for
from densekit.models.cost import cost_of

timm = pytest.importorskip("timm")

# One for each way that torchvision splits a network.
SPLIT = {
    "alexnet": 64,
    "densenet121": 33,  # odd, so that no floor goes unnoticed
    "efficientnet_b0": 33,
    "googlenet": 64,
    "inception_v3": 96,
    "mnasnet0_5": 33,
    "mobilenet_v2": 33,
    "mobilenet_v3_small": 33,
    "regnet_x_400mf": 33,
    "resnet18": 33,
    "shufflenet_v2_x0_5": 33,
    "vgg11_bn": 33,
}


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may ask the network for weights."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a weight was about to be downloaded")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def _hidden_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)


def peer(family: Literal["torchvision", "timm"], name: str, **settings: int) -> ExternalConfig:
    return ExternalConfig(family=family, name=name, num_classes=5, **settings)


@pytest.mark.parametrize(("name", "size"), SPLIT.items())
def test_torchvision_halves_make_the_whole(name: str, size: int) -> None:
    """Against the library's own forward: the table of heads says nothing that is not so."""
    model = build(peer("torchvision", name)).eval()
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        final, stages = model.forward_intermediates(x)
        torch.testing.assert_close(model.forward_head(final), model(x), rtol=0, atol=0)
        torch.testing.assert_close(model.forward_features(x), final, rtol=0, atol=0)
        assert model.forward_head(final, pre_logits=True).shape == (2, model.num_features)
        assert torch.equal(stages[-1], final)
        areas = [stage.shape[-1] * stage.shape[-2] for stage in stages]
        assert areas == sorted(set(areas), reverse=True)
        assert len(stages) >= 4
        assert len(model.forward_intermediates(x, [0, -1])[1]) == 2


@pytest.mark.parametrize("name", ["squeezenet1_1", "swin_t"])
def test_torchvision_without_a_split_refuses_only_features(name: str) -> None:
    model = build(peer("torchvision", name)).eval()
    x = torch.randn(1, 3, 64, 64)
    assert model(x).shape == (1, 5)
    for ask in (model.forward_features, model.forward_head, model.forward_intermediates):
        with pytest.raises(InvalidInput, match=f"torchvision:{name} does not keep features and head apart"):
            ask(x)
    model.reset_classifier(3)
    assert model(x).shape == (1, 3)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_timm_halves_make_the_whole(name: str) -> None:
    model = build(peer("timm", name)).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = model.forward_features(x)
        torch.testing.assert_close(model.forward_head(features), model(x), rtol=0, atol=0)
        assert model.forward_head(features, pre_logits=True).ndim == 2
        final, stages = model.forward_intermediates(x, [0, 1])
        assert final.shape == features.shape
        assert len(stages) == 2


@pytest.mark.parametrize("config", [peer("torchvision", "resnet18"), peer("timm", "resnet18")], ids=str)
def test_the_head_can_be_replaced_more_than_once(config: ExternalConfig) -> None:
    """Also after 0 classes, when the last linear layer found is no longer the head."""
    model = build(config).eval()
    x = torch.randn(2, 3, 32, 32)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.config.num_classes == 7


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "googlenet", "mobilenet_v2"])
@pytest.mark.parametrize("channels", [1, 4])
def test_torchvision_reads_any_number_of_channels(name: str, channels: int) -> None:
    cost = cost_of(peer("torchvision", name, in_channels=channels))
    usual = cost_of(peer("torchvision", name))
    first = next(m for m in build(peer("torchvision", name)).modules() if isinstance(m, torch.nn.Conv2d))
    assert cost.parameters - usual.parameters == (channels - 3) * first.weight[:, 0].numel()
    assert cost.depth == usual.depth


def test_timm_reads_any_number_of_channels() -> None:
    assert build(peer("timm", "resnet18", in_channels=1)).eval()(torch.randn(1, 1, 32, 32)).shape == (1, 5)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_off(name: str) -> None:
    """In training torchvision's own would return a tuple, which no loss of ours reads; and warn when it is built."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build(peer("torchvision", name)).train()
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 5)
    assert not [key for key in model.state_dict() if "aux" in key.lower()]


@pytest.mark.parametrize("config", [peer("torchvision", "resnet18"), peer("timm", "resnet18")], ids=str)
def test_state_dicts_are_the_library_s_own(config: ExternalConfig) -> None:
    """So that weights travel both ways, and a configuration and a state make the network again."""
    model = build(config).eval()
    theirs = (
        timm.create_model(config.name, num_classes=5)
        if config.family == "timm"
        else torchvision_models.get_model(config.name, num_classes=5)
    ).eval()
    theirs.load_state_dict(model.state_dict(), strict=True)
    again = build(ExternalConfig.model_validate_json(config.model_dump_json())).eval()
    again.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(theirs(x), model(x), rtol=0, atol=0)


def test_a_state_with_a_wrong_key_is_refused() -> None:
    """The renaming of keys hides nothing from strict loading."""
    model = build(peer("torchvision", "resnet18"))
    state = dict(model.state_dict())
    state["surplus"] = state.pop("fc.bias")
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*fc\.bias.*Unexpected key.*surplus"):
        model.load_state_dict(state)


def test_copies_and_wrapped_networks_keep_their_own_state() -> None:
    """A moving average deep-copies the network and puts it under a prefix."""
    model = build(peer("torchvision", "resnet18"))
    twin = copy.deepcopy(model)
    torch.nn.init.zeros_(twin.net.fc.weight)
    assert model.state_dict()["fc.weight"].any()
    wrapped = torch.nn.Sequential(model)
    assert "0.fc.weight" in wrapped.state_dict()
    wrapped.load_state_dict(torch.nn.Sequential(twin).state_dict())
    assert not model.net.fc.weight.any()


def test_an_exported_peer_equals_eager() -> None:
    model = build(peer("torchvision", "resnet18")).eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("torchvision:resnet19", "torchvision.*did you mean.*resnet1"),
        ("timm:resnet18x", "timm.*did you mean.*resnet18"),
    ],
)
def test_an_unknown_name_offers_close_ones(name: str, offer: str) -> None:
    with pytest.raises(UnknownName, match=offer):
        build(config_for(name))


def test_detection_models_are_not_classifiers() -> None:
    with pytest.raises(UnknownName):
        build(config_for("torchvision:fasterrcnn_resnet50_fpn"))


@pytest.mark.usefixtures("_hidden_timm")
def test_a_missing_timm_names_the_extra() -> None:
    with pytest.raises(InvalidInput, match=r"pip install 'densekit\[timm\]'"):
        build(config_for("timm:resnet18"))


def test_costs_are_the_published() -> None:
    """WideResNet and GoogLeNet are the paper's other baselines; RegNet alone cannot be built on the meta device."""
    assert cost_of(config_for("torchvision:wide_resnet50_2")).parameters == 68_883_240
    assert cost_of(config_for("torchvision:googlenet")).parameters == 6_624_904
    assert cost_of(config_for("torchvision:regnet_x_400mf")).parameters == 5_495_976
    assert cost_of(config_for("timm:densenet121")).parameters == 7_978_856
