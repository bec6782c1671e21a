"""--init takes whatever fits, whatever a library calls its head, and says what is new."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.models as peers
from torch import Tensor, nn

from densekit.config import Preprocessing
from densekit.errors import BadWeights, InvalidInput, UnknownName
from densekit.models import build, config_for
from densekit.weights import ModelCard, load_model, model_folder, save_model
from densekit.weights.initial import start_from
from densekit.weights.shapes import head_of

HEADS = {
    "densenet_bc_10_4": {"classifier.weight", "classifier.bias"},
    "resnet_20": {"classifier.weight", "classifier.bias"},
    "torchvision:resnet18": {"fc.weight", "fc.bias"},
    "torchvision:squeezenet1_1": {"classifier.1.weight", "classifier.1.bias"},
    "torchvision:vit_b_16": {"heads.head.weight", "heads.head.bias"},
    "torchvision:regnet_x_400mf": {"fc.weight", "fc.bias"},
    "timm:resnet18": {"fc.weight", "fc.bias"},
    "timm:deit_tiny_distilled_patch16_224": {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"},
}


def downloaded(monkeypatch: pytest.MonkeyPatch, state: dict[str, Tensor]) -> None:
    """Torchvision's next download brings `state`."""

    def fetch(*_: Any, **__: Any) -> dict[str, Tensor]:
        return dict(state)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)


def saved(folder: Path, name: str, classes: tuple[str, ...]) -> dict[str, Tensor]:
    """The state of a new network in a model folder."""
    config = config_for(name).model_copy(update={"num_classes": len(classes)})
    preprocessing = Preprocessing(channels=3, size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    state = build(config).state_dict()
    save_model(folder, state, ModelCard(model=config, classes=classes, preprocessing=preprocessing))
    return state


@pytest.mark.parametrize(("name", "head"), HEADS.items())
def test_the_head_is_what_depends_on_the_number_of_classes(name: str, head: set[str]) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    assert set(head_of(config_for(name))) == head


@pytest.mark.parametrize("name", ["densenet_bc_10_4", "torchvision:resnet18", "timm:resnet18"])
@pytest.mark.parametrize("classes", [("a", "b", "c"), ("d", "e")], ids=["more classes", "other classes"])
def test_a_head_for_other_classes_is_new_and_all_else_is_taken(
    name: str, classes: tuple[str, ...], tmp_path: Path
) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    theirs = saved(tmp_path, name, ("a", "b"))
    config = config_for(name).model_copy(update={"num_classes": len(classes)})
    model = build(config)
    fresh = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    new, adapted = start_from(model, config, str(tmp_path), classes)
    assert adapted == ()
    assert set(new) == HEADS[name]
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[key] if key in new else theirs[key]), key


def test_a_head_for_the_same_classes_is_taken(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "torchvision:resnet18", ("a", "b"))
    config = config_for("torchvision:resnet18").model_copy(update={"num_classes": 2})
    model = build(config)
    assert start_from(model, config, str(tmp_path), ("a", "b")) == ((), ())
    assert torch.equal(model.state_dict()["fc.weight"], theirs["fc.weight"])


def test_torchvisions_old_files_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its DenseNets were saved with dots inside names, and before batch norm counted its batches."""
    theirs = peers.densenet121().state_dict()
    pattern = r"(denselayer\d+\.(?:norm|conv))([12])"
    old = {re.sub(pattern, r"\1.\2", key): value for key, value in theirs.items() if "num_batches" not in key}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    downloaded(monkeypatch, old)
    config = config_for("densenet121").model_copy(update={"num_classes": 5})
    model = build(config)
    begun = start_from(model, config, "torchvision:densenet121", ("a", "b", "c", "d", "e"))
    assert begun.new == ("classifier.weight", "classifier.bias")
    key = "features.denseblock4.denselayer16.norm2.weight"
    assert torch.equal(model.state_dict()[key], theirs[key])


@pytest.mark.parametrize(
    ("name", "settings"), [("googlenet", {"init_weights": False}), ("inception_v3", {"init_weights": False})]
)
def test_torchvisions_auxiliary_heads_are_left_behind(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded(monkeypatch, peers.get_model(name, aux_logits=True, **settings).state_dict())
    config = config_for(f"torchvision:{name}").model_copy(update={"num_classes": 2})
    assert start_from(build(config), config, f"torchvision:{name}", ("a", "b")).new == ("fc.weight", "fc.bias")


def test_another_network_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "torchvision:resnet18", ("a", "b"))
    config = config_for("torchvision:resnet34").model_copy(update={"num_classes": 2})
    with pytest.raises(BadWeights, match="does not hold the weights of this network"):
        start_from(build(config), config, str(tmp_path), ("a", "b"))


@pytest.mark.parametrize("name", ["densenet_bc_10_4", "torchvision:resnet18", "timm:resnet18"])
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_a_first_convolution_for_other_channels_is_adapted_and_named(name: str, channels: int, tmp_path: Path) -> None:
    """Of equal channels, it makes what it made of equal channels before."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    saved(tmp_path, name, ("a", "b"))
    config = config_for(name).model_copy(update={"num_classes": 2, "in_channels": channels})
    model, (reference, _) = build(config).eval(), load_model(tmp_path)
    begun = start_from(model, config, str(tmp_path), ("a", "b"))
    assert begun.new == ()
    (adapted,) = begun.adapted
    assert f"from 3 to {channels} input channel" in adapted
    x = torch.randn(2, 1, 64, 64)
    expected = reference(x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(model(x.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("field", "value"), [("transition_relu", False), ("norm_eps", 1.001e-5)])
def test_a_setting_without_tensors_must_be_the_weights_own(field: str, value: object, tmp_path: Path) -> None:
    """Nothing else would tell: all shapes are the same."""
    saved(tmp_path, "densenet_bc_10_4", ("a", "b"))
    config = config_for("densenet_bc_10_4").model_copy(update={"num_classes": 2, field: value})
    with pytest.raises(BadWeights, match=rf"add --set model\.{field}="):
        start_from(build(config), config, str(tmp_path), ("a", "b"))


@pytest.mark.parametrize(("field", "value"), [("transition_relu", False), ("norm_eps", 1.001e-5)])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_setting_without_tensors_must_be_the_libraries_own(library: str, field: str, value: object) -> None:
    """Refused before anything is downloaded."""
    config = config_for("densenet121").model_copy(update={field: value})
    with torch.device("meta"):
        model = build(config)
    with pytest.raises(BadWeights, match=rf"{library}:densenet121 was made with .*add --set model\.{field}="):
        start_from(model, config, f"{library}:densenet121", ("a", "b"))


def test_the_libraries_densenets_compute_with_our_defaults() -> None:
    """Which is what `start_from` holds others to."""
    nets = [peers.densenet121()]
    if find_spec("timm"):
        import timm

        nets.append(timm.create_model("densenet121"))
    assert {module.eps for net in nets for module in net.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-5}


def test_an_unreachable_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    config = config_for("densenet121")
    with pytest.raises(BadWeights, match=r"densenet121 could not be downloaded .*no route.*check the network"):
        start_from(build(config), config, "torchvision:densenet121", ("a", "b"))
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(BadWeights, match=r"densenet121 could not be loaded .*no route.*check the name and network"):
        start_from(build(config), config, "timm:densenet121", ("a", "b"))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_an_unknown_name_offers_close_ones(library: str) -> None:
    if library == "timm":
        pytest.importorskip("timm")
    config = config_for("densenet_bc_10_4")
    with pytest.raises(UnknownName, match=r"did you mean.*resnet18"):
        start_from(build(config), config, f"{library}:resnt18", ("a", "b"))


def test_what_is_not_a_model_yet_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="--model timm:resnet18"):
        model_folder("timm:resnet18")
