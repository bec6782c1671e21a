"""Networks whose weights fit a DenseNet of ours: the same function after the import, or an error that says why not."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet as Torchvision

from densekit import create_model, import_model, load
from densekit.config import DenseNetConfig
from densekit.errors import BadWeights, InvalidInput
from densekit.models import DenseNet
from densekit.models.cost import cost_of
from tests.narrow import expect_type
from tests.weights.keras_files import config_of, keras_layers, write_h5
from tests.weights.peers import NAMES, Double, perturb, torchvisions

pytestmark = pytest.mark.usefixtures("read_in_process")

ROOT = Path(__file__).parents[2]
keras_files = pytest.importorskip("h5py", reason="h5py, of the extras keras and test, is not installed")
State = dict[str, Tensor]
Layers = list[dict[str, Any]]


def largest_difference(folder: Path, images: Tensor, expected: Tensor) -> float:
    with torch.inference_mode():
        return float((load(folder, device="cpu").model(images) - expected).abs().max())


# --- Keras's own networks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras_nets() -> Iterator[Path]:
    """Files that Keras itself wrote, and what it computes, made in a process of its own."""
    if find_spec("keras") is None:  # importing it here would look for TensorFlow
        pytest.skip("keras, of the extra test, is not installed")
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "tests.weights.keras_wirings", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        yield Path(folder)


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("as ours", {}),
        ("new maps first", {}),
        ("all maps in one list, backwards", {}),
        ("transitions without ReLU", {"transition_relu": False}),
        ("pooling before the transition's convolution", {}),
        ("biases", {}),
        ("stem with batch norm", {"stem_norm": True}),
        ("nested in a Sequential", {}),
        ("nested in a Functional", {}),
    ],
)
def test_logits_of_a_keras_network_are_kept_whatever_its_wiring(
    name: str, fields: dict[str, object], ending: str, keras_nets: Path, tmp_path: Path
) -> None:
    done = import_model(keras_nets / f"{name}.{ending}", tmp_path / "model")
    known = np.load(keras_nets / f"{name}.npz")
    images, logits = (torch.from_numpy(known[key]) for key in ("images", "logits"))
    assert largest_difference(done.folder, images.permute(0, 3, 1, 2), logits) < 1e-5
    assert {field: getattr(done.card.model, field) for field in fields} == fields


@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no last ReLU", r"layer pooled reads layer last_norm, a BatchNormalization, where .* has a ReLU"),
        ("no second ReLU", r"layer \S+ reads layer \S+, a BatchNormalization, where densekit's DenseNet has a ReLU"),
        ("a transition without ReLU", r"reads no ReLU, and the same layer of other transitions reads one"),
        ("lopsided padding", r"reads \[\[0, 2\], \[2, 0\]\] pixels of zeros at each side, where .* has 1"),
        ("called in training", r"called with training=True"),
        ("stem pooled", r"max pooling, which densekit's DenseNet has only after a first 7x7 convolution"),
        ("stem moved by 2", r"has strides 2, where densekit's DenseNet has 1"),
        ("a shortcut", r"is a Add, which densekit's DenseNet has no place for"),
    ],
)
def test_a_keras_network_that_computes_otherwise_is_refused_by_layer(
    name: str, words: str, ending: str, keras_nets: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadWeights, match=words):
        import_model(keras_nets / f"{name}.{ending}", tmp_path / "model")
    assert not (tmp_path / "model").exists()


# --- Configs, written without Keras -----------------------------------------------------------------------------------


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A file of always the same weights, whose config has that change."""
    torch.manual_seed(0)
    layers = keras_layers(perturb(torchvisions()).state_dict())
    config = config_of(layers)
    change({entry["name"]: entry for entry in config["config"]["layers"]})
    return write_h5(tmp_path / "a.h5", layers, config=config)


def same_import(path: Path, tmp_path: Path) -> None:
    """Whether a file gives the network of a file that nothing was changed in."""
    (tmp_path / "plain").mkdir()
    done, plain = (
        import_model(file, file.parent / "model") for file in (path, changed(tmp_path / "plain", lambda entries: None))
    )
    assert done.card.model == plain.card.model
    mine, theirs = (load(each.folder, device="cpu").model.state_dict() for each in (done, plain))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


def reads(layer: str, *names: str) -> Callable[[dict[str, Any]], None]:
    def change(entries: dict[str, Any]) -> None:
        entries[layer]["inbound_nodes"] = [[[name, 0, 0, {}] for name in names]]

    return change


@pytest.mark.parametrize(
    ("layer", "names", "words"),
    [
        ("pool1_pad", ("conv1_conv",), "conv1_bn/gamma is of no layer between the image and the output"),
        (
            "pool1_pad",
            ("conv1_bn",),
            "reads layer conv1_bn, a BatchNormalization, where densekit's DenseNet has a ReLU",
        ),
        ("pool1", ("conv1_bn_relu",), "layer pool1 reads 0 pixels of zeros at each side, where .* has 1"),
        ("conv1_conv", ("input_layer",), "layer conv1_conv reads 0 pixels of zeros at each side, where .* has 3"),
        ("conv2_block1_0_bn", ("pool1_pad",), "a ZeroPadding2D, where densekit's DenseNet has a max pooling"),
        ("conv2_block2_0_bn", ("pool1",), "layer conv2_block2_0_bn reads 1 inputs, where .* each of 2 once"),
        ("conv2_block2_2_conv_concat", ("pool1", "conv2_block2_2_conv"), "layer pool2_bn reads 2 inputs"),
        ("conv2_block2_2_conv", ("conv2_block2_1_bn",), "reads layer conv2_block2_1_bn, a BatchNormalization"),
        ("conv3_block1_0_bn", ("pool2_conv",), "0 average poolings"),
        ("predictions", ("bn_relu",), r"reads layer bn_relu, a Activation \(relu\), where .* a global average pooling"),
        ("predictions", ("avg_pool", "avg_pool"), "layer predictions, a Dense, reads 2 layers"),
    ],
)
def test_a_layer_that_reads_another_one_is_refused(
    layer: str, names: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    with pytest.raises(BadWeights, match=words):
        import_model(changed(tmp_path, reads(layer, *names)), tmp_path / "model")


@pytest.mark.parametrize(
    ("layer", "settings", "words"),
    [
        ("conv2_block1_0_bn", {"axis": [1]}, "has axis 1, where channels are axis -1"),
        ("conv2_block1_2_conv_concat", {"axis": 1}, "a Concatenate, has axis 1"),
        ("conv2_block1_2_conv", {"padding": "valid"}, "layer conv2_block1_2_conv reads 0 pixels of zeros"),
        ("conv1_pad", {"padding": [[2, 3], [2, 3]]}, "where densekit's DenseNet has 3"),
        ("conv1_conv", {"data_format": "channels_first"}, None),
    ],
)
def test_a_setting_that_moves_maps_or_channels_is_refused(
    layer: str, settings: dict[str, Any], words: str | None, tmp_path: Path
) -> None:
    path = changed(tmp_path, lambda entries: entries[layer]["config"].update(settings))
    with pytest.raises(BadWeights, match=words):
        import_model(path, tmp_path / "model")


def test_several_outputs_are_refused(tmp_path: Path) -> None:
    layers = keras_layers(perturb(torchvisions()).state_dict())
    config = config_of(layers)
    config["config"]["output_layers"].append(["avg_pool", 0, 0])
    with pytest.raises(BadWeights, match="has 2 outputs, and a DenseNet one"):
        import_model(write_h5(tmp_path / "a.h5", layers, config=config), tmp_path / "model")


def test_a_network_whose_config_lists_no_layers_is_refused(tmp_path: Path) -> None:
    layers = keras_layers(perturb(torchvisions()).state_dict())
    config = {"class_name": "Own>Net", "config": {"name": "net", "depth": 3}}
    with pytest.raises(BadWeights, match=r"holds a Own>Net, whose config does not say .*save_weights"):
        import_model(write_h5(tmp_path / "a.h5", layers, config=config), tmp_path / "model")


@pytest.mark.parametrize(
    "kind",
    [
        "BatchNormalizationV1",
        "BatchNormalizationV2",
        "SyncBatchNormalization",
        "keras.layers>BatchNormalization",
        "Keras>SyncBatchNormalization",
    ],
)
def test_batch_norms_are_known_by_every_name_that_keras_saves(kind: str, tmp_path: Path) -> None:
    def change(entries: dict[str, Any]) -> None:
        for entry in entries.values():
            if entry["class_name"] == "BatchNormalization":
                entry["class_name"] = kind

    done = import_model(changed(tmp_path, change), tmp_path / "model")
    assert isinstance(done.card.model, DenseNetConfig)
    assert done.card.model.norm_eps == 1.001e-5  # read of these very layers
    assert any("wiring: the file's config" in note for note in done.notes)


def test_a_class_of_somebody_that_is_called_as_keras_has_it_is_refused(tmp_path: Path) -> None:
    def change(entries: dict[str, Any]) -> None:
        entries["conv2_block1_2_conv"] |= {"module": "my.layers", "registered_name": "Mine>Conv2D"}

    with pytest.raises(BadWeights, match="layer conv2_block1_2_conv is a Mine>Conv2D"):
        import_model(changed(tmp_path, change), tmp_path / "model")


@pytest.mark.parametrize(
    "activation", ["relu", {"class_name": "function", "config": "relu", "registered_name": "relu"}, "a ReLU"]
)
def test_a_relu_is_one_in_whatever_form_keras_saves_it(activation: Any, tmp_path: Path) -> None:
    def change(entries: dict[str, Any]) -> None:
        entry = entries["bn_relu"]
        if activation == "a ReLU":
            entry["class_name"] = "ReLU"
            del entry["config"]["activation"]
        else:
            entry["config"]["activation"] = activation

    same_import(changed(tmp_path, change), tmp_path)


def test_weights_whose_names_tensorflow_numbered_belong_to_their_layers(tmp_path: Path) -> None:
    """Where a session had built the network before, names of weights have numbers that names of layers have not."""
    import h5py

    path = changed(tmp_path, lambda entries: None)
    with h5py.File(path, "r+") as file:
        group = file["model_weights/conv1_conv"]
        group.move("conv1_conv", "conv1_conv_1")
        group.attrs["weight_names"] = [b"conv1_conv_1/kernel"]
    same_import(path, tmp_path)


# --- Biases -----------------------------------------------------------------------------------------------------------


def with_biases(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.empty(module.out_channels).uniform_(-1, 1))
    return net


@pytest.mark.parametrize(
    "make",
    [
        lambda: perturb(torchvisions()),
        lambda: perturb(Double(NAMES["andreasveit"])),
        lambda: perturb(Double(NAMES["andreasveit"], bottleneck=False, reduction=1.0)),
        lambda: perturb(Double(NAMES["kuangliu"], blocks=(2, 3, 2, 2))),
        lambda: perturb(Double(NAMES["nobody"])),
    ],
    ids=["torchvision", "BC", "no bottleneck", "new maps first", "by order"],
)
def test_biases_of_convolutions_fold_into_the_running_means_of_their_readers(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = with_biases(make()).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    images = torch.randn(2, 3, 64, 64)
    done = import_model(tmp_path / "weights.pth", tmp_path / "model")
    with torch.inference_mode():
        assert largest_difference(done.folder, images, net(images)) < 1e-5
    count = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert any(note.startswith(f"biases: {count} of convolutions folded into") for note in done.notes)
    assert sum("folded into the running means" in how for how in done.account.converted.values()) == count


def test_folded_biases_are_exact_in_double_precision(tmp_path: Path) -> None:
    """Rounded once, from the sum in float64."""
    torch.manual_seed(0)
    net = with_biases(perturb(torchvisions())).double().eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    state = net.state_dict()
    folder = import_model(tmp_path / "weights.pth", tmp_path / "model").folder
    got = load(folder, device="cpu").model.state_dict()["features.norm0.running_mean"]
    assert torch.equal(got, (state["features.norm0.running_mean"] - state["features.conv0.bias"]).float())


def test_a_bias_of_another_size_is_refused(tmp_path: Path) -> None:
    state = with_biases(perturb(torchvisions())).state_dict()
    torch.save(state | {"features.conv0.bias": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(BadWeights, match=r"features\.conv0\.bias is no bias of 16 maps"):
        import_model(tmp_path / "weights.pth", tmp_path / "model")


# --- Stems and heads --------------------------------------------------------------------------------------------------


def small_stem() -> nn.Module:
    """Torchvision's DenseNet as people make it for CIFAR."""
    net = Torchvision(8, (2, 2, 2), 16, num_classes=10)
    net.features.conv0 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    net.features.pool0 = nn.Identity()
    return perturb(net)


@pytest.mark.parametrize("own_names", [False, True])
def test_a_small_stem_with_a_batch_norm_is_imported(own_names: bool, tmp_path: Path) -> None:
    net = small_stem()
    state = {k.replace("denselayer", "layers.") if own_names else k: v for k, v in net.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    done = import_model(tmp_path / "weights.pth", tmp_path / "model")
    images = torch.randn(2, 3, 32, 32)
    assert isinstance(done.card.model, DenseNetConfig)
    assert (done.card.model.stem, done.card.model.stem_norm) == ("cifar", True)
    assert any("stem 3x3, stride 1, no pooling" in note for note in done.notes)
    with torch.inference_mode():
        assert largest_difference(done.folder, images, net(images)) < 1e-5


@pytest.mark.parametrize("plan", ["concat", "checkpoint", "shared", "auto"])
def test_a_stem_with_a_batch_norm_trains_as_torchvisions(plan: str) -> None:
    reference = small_stem().double().train()
    model = create_model(
        "densenet_bc_16_8", num_classes=10, stem_norm=True, growth_rate=8, blocks=(2, 2, 2), stem_channels=16, plan=plan
    ).double()
    model.load_state_dict(reference.state_dict())
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    for net in (reference, model):
        net.train()
        net(images).square().sum().backward()
    known = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, known[name].grad, rtol=1e-10, atol=1e-10, msg=name)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, reference.get_buffer(name), rtol=1e-12, atol=1e-12, msg=name)


def test_a_stem_with_a_batch_norm_costs_its_parameters_and_others_keep_theirs() -> None:
    plain = expect_type(create_model("densenet_bc_16_8"), DenseNet).config
    assert plain.stem_norm is None
    with_norm = plain.model_copy(update={"stem_norm": True})
    assert cost_of(with_norm).parameters == cost_of(plain).parameters + 2 * plain.stem_channels
    assert cost_of(with_norm).macs == cost_of(plain).macs
    assert "features.norm0.weight" not in create_model("densenet_bc_16_8", stem_norm=False).state_dict()


def test_an_imagenet_stem_without_batch_norm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="stem_norm false is for the cifar stem"):
        create_model("densenet121", stem_norm=False)
    state = perturb(torchvisions()).state_dict()
    torch.save({k: v for k, v in state.items() if "norm0" not in k}, tmp_path / "weights.pth")
    with pytest.raises(BadWeights, match="begins with a 7x7 convolution without a batch norm"):
        import_model(tmp_path / "weights.pth", tmp_path / "model")


def test_a_classifier_that_is_a_convolution_is_a_linear_layer(tmp_path: Path) -> None:
    net = perturb(torchvisions())
    state = net.state_dict()
    torch.save(state | {"classifier.weight": state["classifier.weight"][:, :, None, None]}, tmp_path / "weights.pth")
    done = import_model(tmp_path / "weights.pth", tmp_path / "model")
    assert done.account.converted == {"classifier.weight": "1x1 convolution to linear"}
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert largest_difference(done.folder, images, net(images)) < 1e-5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kuangliu", "concatenation with new maps first; a ReLU"),
        ("weiaicunzai", "concatenation with new maps last; no ReLU"),
    ],
)
def test_what_weights_do_not_show_is_said(name: str, words: str, tmp_path: Path) -> None:
    torch.save(Double(NAMES[name]).state_dict(), tmp_path / "weights.pth")
    (note,) = [n for n in import_model(tmp_path / "weights.pth", tmp_path / "model").notes if n.startswith("assumed")]
    assert words in note
    assert re.search(r"epsilon 1e-05", note)
