"""Pruned, weight-normed and float8 weights give the network that they stand for; quantised ones are refused."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

from densekit import import_model, load
from densekit.errors import BadWeights
from densekit.models import build, config_for
from densekit.weights.foreign.import_model import ImportedModel
from tests.narrow import expect_type
from tests.weights.peers import perturb, torchvisions

pytestmark = pytest.mark.usefixtures("read_in_process")

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Module:
    return perturb(torchvisions())


def imported(state: dict[str, Tensor], folder: Path, **options: Any) -> ImportedModel:
    torch.save(state, folder / "weights.pth")
    return import_model(folder / "weights.pth", folder / "model", **options)


def same_logits(net: nn.Module, done: ImportedModel) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(load(done.folder, device="cpu").model(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)


def test_a_pruned_network_is_its_weights_times_its_masks(net: nn.Module, tmp_path: Path) -> None:
    conv = net.get_submodule("features.denseblock1.denselayer1.conv1")
    prune.l1_unstructured(conv, "weight", 0.5)
    prune.random_unstructured(net.get_submodule("classifier"), "bias", 0.3)
    done = imported(net.state_dict(), tmp_path)
    stored = load(done.folder, device="cpu").model.state_dict()
    assert torch.equal(stored["features.denseblock1.denselayer1.conv1.weight"], expect_type(conv.weight, Tensor))
    assert done.account.converted == {
        "features.denseblock1.denselayer1.conv1.weight": "pruned by its mask",
        "classifier.bias": "pruned by its mask",
    }
    same_logits(net, done)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("way", ["since torch 2.0", "before"])
def test_a_weight_norm_is_multiplied_out(way: str, dim: int | None, net: nn.Module, tmp_path: Path) -> None:
    conv = net.get_submodule("features.denseblock2.denselayer1.conv2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (weight_norm if way == "before" else parametrizations.weight_norm)(conv, dim=dim)  # type: ignore[arg-type]  # torch types neither for dim=None
    with torch.no_grad():
        for name, tensor in conv.named_parameters():
            if name.endswith(("_g", "original0")):
                tensor.mul_(1.7)
    done = imported(net.state_dict(), tmp_path)
    assert done.account.converted == {"features.denseblock2.denselayer1.conv2.weight": "product of its weight norm"}
    same_logits(net, done)


def test_other_kinds_of_network_are_made_plain_too(tmp_path: Path) -> None:
    net = build(config_for("resnet_8")).eval()
    name = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    prune.l1_unstructured(net.get_submodule(name), "weight", 0.5)
    done = imported(net.state_dict(), tmp_path, model="resnet_8")
    assert done.account.converted == {f"{name}.weight": "pruned by its mask"}


def test_other_reparametrisations_are_refused(net: nn.Module, tmp_path: Path) -> None:
    parametrizations.spectral_norm(net.get_submodule("classifier"))
    with pytest.raises(BadWeights, match=r"classifier\.parametrizations.* is a part of a reparametrised .* undo it"):
        imported(net.state_dict(), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "classifier.zero_point",
        "features.conv0.weight_scale",
        "features.conv0.weight_fake_quant.fake_quant_enabled",
        "classifier.SCB",
        "classifier.qweight",
    ],
)
def test_quantised_networks_are_named_and_not_left_out(name: str, net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"is quantised.* as .* shows.*; import the float network"):
        imported(net.state_dict() | {name: torch.ones(1)}, tmp_path)


def test_quantised_tensors_are_named(net: nn.Module, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight = torch.quantize_per_tensor(net.state_dict()["classifier.weight"], 0.1, 0, torch.qint8)
        with pytest.raises(BadWeights, match=r"quantised, .*; import the float network"):
            imported(net.state_dict() | {"classifier.weight": weight}, tmp_path)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("file", ["safetensors", "pth"])
def test_float8_is_converted_exactly_and_said(kind: torch.dtype, file: str, net: nn.Module, tmp_path: Path) -> None:
    state = net.state_dict()
    small = {name: tensor.to(kind) for name, tensor in state.items() if "conv" in name}
    if file == "safetensors":
        save_file(state | small, tmp_path / "w.safetensors")
        done = import_model(tmp_path / "w.safetensors", tmp_path / "model")
    else:
        done = imported(state | small, tmp_path)
    assert done.account.converted == dict.fromkeys(small, f"from {str(kind).removeprefix('torch.')}")
    stored = load(done.folder, device="cpu").model.state_dict()
    assert all(torch.equal(stored[name], tensor.float()) for name, tensor in small.items())


def test_float8_that_is_no_number_is_refused(net: nn.Module, tmp_path: Path) -> None:
    bad = torch.full((7,), float("nan")).to(torch.float8_e4m3fn)
    with pytest.raises(BadWeights, match=r"classifier\.bias has values that are no finite numbers"):
        imported(net.state_dict() | {"classifier.bias": bad}, tmp_path)


@pytest.mark.parametrize("kind", [torch.float4_e2m1fn_x2, torch.float8_e8m0fnu])
@pytest.mark.parametrize("file", ["safetensors", "pth"])
def test_packed_numbers_and_bare_scales_are_refused(
    kind: torch.dtype, file: str, net: nn.Module, tmp_path: Path
) -> None:
    state = net.state_dict() | {"classifier.bias": torch.zeros(7, dtype=torch.uint8).view(kind)}
    save_file(state, tmp_path / "w") if file == "safetensors" else torch.save(state, tmp_path / "w")
    with pytest.raises(BadWeights, match=rf"classifier\.bias is {str(kind).removeprefix('torch.')}"):
        import_model(tmp_path / "w", tmp_path / "model")
