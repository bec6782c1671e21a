"""What an import understands, and that it refuses the rest instead of guessing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from densekit import create_model, import_model, load
from densekit.config import DenseNetConfig
from densekit.errors import BadWeights, InvalidInput
from densekit.models import DenseNet, build, config_for
from densekit.models.densenet import Transition
from densekit.weights.foreign.convert import compression_of, read_channels
from densekit.weights.foreign.sandbox import digest
from densekit.weights.initial import start_from
from tests.narrow import expect_type
from tests.weights.keras_files import config_of, keras_layers, write_h5
from tests.weights.peers import NAMES, Double, data_parallel, monais, perturb, torchvisions

pytestmark = pytest.mark.usefixtures("read_in_process")

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return perturb(torchvisions()).state_dict()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[object], Path]:
    def write(tree: object) -> Path:
        torch.save(tree, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return write


Write = Callable[[object], Path]


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        "densenet169",
        "densenet161",
        "densenet_40_12",
        "densenet_b_40_12",
        "densenet_c_40_12",
        "densenet_bc_22_12",
        "densenet_bc_40_48",
        "densenet_bc_46_20",
    ],
)
def test_the_network_is_deduced_from_shapes(name: str, file: Write, tmp_path: Path) -> None:
    made = create_model(name, num_classes=3, in_channels=4)
    done = import_model(file(made.state_dict()), tmp_path / "model")
    assert done.card.model.model_copy(update={"name": name}) == made.config
    assert done.card.model.name == name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {
            "state_dict": data_parallel(s),
            "optimizer": {"state": {0: {"momentum_buffer": s["classifier.bias"]}}},
        },
        lambda s: {"model": {"state_dict": s}, "epoch": 3},
        lambda s: {f"model.{key}": value for key, value in s.items()},
        lambda s: {f"_orig_mod.module.{key}": value for key, value in s.items()},
        lambda s: {key.replace("features.", "features.module."): value for key, value in s.items()},
        lambda s: {f"backbone.net.{key}": value for key, value in s.items()},
        lambda s: nn.ParameterDict({"a": nn.Parameter(torch.zeros(1))}).state_dict() | {"weights": s},
    ],
    ids=["DataParallel", "nested", "Lightning", "compiled", "features alone in parallel", "backbone", "beside others"],
)
def test_wrappers_are_taken_off(wrap: Callable[[State], object], state: State, file: Write, tmp_path: Path) -> None:
    done = import_model(file(wrap(state)), tmp_path / "model")
    model = load(tmp_path / "model", device="cpu").model
    assert len(done.account.matched) == len(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_one_of_two_networks_must_be_named(state: State, file: Write, tmp_path: Path) -> None:
    path = file({"model": state, "ema": {"shadow": perturb(torchvisions(), 1).state_dict()}})
    with pytest.raises(InvalidInput, match=r"holds 2 networks, model and ema\.shadow; choose one with --key"):
        import_model(path, tmp_path / "model")
    with pytest.raises(InvalidInput, match=r"it has model, ema\.shadow"):
        import_model(path, tmp_path / "model", key="emma")
    import_model(path, tmp_path / "model", key="ema.shadow")
    stored = load(tmp_path / "model", device="cpu").model.state_dict()
    assert not torch.equal(stored["features.norm5.bias"], state["features.norm5.bias"])


def test_what_is_left_over_is_an_error_unless_named(state: State, file: Write, tmp_path: Path) -> None:
    path = file(state | {"projector.0.weight": torch.zeros(3, 9), "projector.2.weight": torch.zeros(3, 3)})
    with pytest.raises(BadWeights, match=r"2 of its tensors have no place .*projector\.0\.weight.* --ignore"):
        import_model(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    account = import_model(path, tmp_path / "model", ignore=["projector.*"]).account
    assert set(account.aside) == {"projector.0.weight", "projector.2.weight"}


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("features.denseblock2.denselayer2.conv1.weight", "lacks layers in between"),
        ("features.denseblock2.denselayer2.norm2.weight", "lacks 1 tensors of the network"),
        ("features.denseblock2.denselayer2.norm2.running_var", "lacks 1 tensors of the network"),
        ("features.conv0.weight", "has no features.conv0.weight"),
        ("classifier.weight", "has no classifier of one linear layer"),
    ],
)
def test_what_is_missing_is_an_error(missing: str, words: str, state: State, file: Write, tmp_path: Path) -> None:
    path = file({key: value for key, value in state.items() if key != missing})
    with pytest.raises(BadWeights, match=words):
        import_model(path, tmp_path / "model")


def test_batch_norms_without_scale_or_shift_have_1_and_0(state: State, file: Write, tmp_path: Path) -> None:
    """And a classifier without bias 0: the same function."""
    lean = {
        key: value
        for key, value in state.items()
        if "norm" not in key or key.endswith(("mean", "var"))
        if key != "classifier.bias"
    }
    account = import_model(file(lean), tmp_path / "model").account
    assert account.made.keys() == state.keys() - lean.keys()
    model = load(tmp_path / "model", device="cpu").model.state_dict()
    assert all(bool((model[name] == (1 if name.endswith("weight") else 0)).all()) for name in account.made)


def test_a_backbone_starts_a_training_and_predicts_nothing(state: State, file: Write, tmp_path: Path) -> None:
    path = file({key: value for key, value in state.items() if not key.startswith("classifier")})
    with pytest.raises(BadWeights, match="--no-head"):
        import_model(path, tmp_path / "model")
    import_model(path, tmp_path / "model", head=False)
    with pytest.raises(InvalidInput, match="has no classifier; train one from its weights"):
        load(tmp_path / "model")


def test_a_replaced_head_is_known_by_its_shape(state: State, file: Write, tmp_path: Path) -> None:
    renamed = {key.replace("classifier.", "classifier.1."): value for key, value in state.items()}
    done = import_model(file(renamed), tmp_path / "model")
    assert "classifier: known by its shape, not its name" in done.notes
    assert torch.equal(load(done.folder, device="cpu").model.state_dict()["classifier.bias"], state["classifier.bias"])


def test_a_head_of_two_layers_is_refused(state: State, file: Write, tmp_path: Path) -> None:
    head = {"classifier.1.weight": torch.zeros(9, 34), "classifier.3.weight": torch.zeros(2, 9)}
    path = file({key: value for key, value in state.items() if not key.startswith("classifier")} | head)
    with pytest.raises(
        BadWeights, match=r"classifier\.1\.weight, classifier\.3\.weight are left over.* --no-head --ignore"
    ):
        import_model(path, tmp_path / "model")
    import_model(path, tmp_path / "model", head=False, ignore=["classifier.*"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features.conv0.weight": (16, 3, 5, 5)}, "begins with a 5x5 convolution"),
        ({"features.conv0.weight": (16, 3, 7, 7, 7)}, "dimensions, and densekit's images two"),
        ({"features.transition2.conv.weight": (9, 44, 1, 1)}, "do not all compress alike"),
        ({"features.denseblock1.denselayer2.conv1.weight": (32, 25, 1, 1)}, "do not each add 8 maps"),
        ({"features.denseblock1.denselayer1.conv1.weight": (33, 16, 1, 1)}, "a multiple of the growth rate"),
        ({"features.norm5.weight": (5,)}, "norm5.weight is 5, where"),
        ({"features.denseblock1.denselayer1.conv2.weight": (8, 0, 3, 3)}, "conv2.weight is 8x0x3x3, where"),
    ],
)
def test_what_is_no_densenet_of_ours_is_refused(
    change: dict[str, tuple[int, ...]], words: str, state: State, file: Write, tmp_path: Path
) -> None:
    changed = state | {name: torch.zeros(shape) for name, shape in change.items()}
    with pytest.raises(BadWeights, match=words):
        import_model(file(changed), tmp_path / "model")


def test_another_network_than_the_named_one_is_refused(file: Write, tmp_path: Path) -> None:
    path = file(create_model("densenet_bc_22_12").state_dict())
    with pytest.raises(BadWeights, match=r"holds a densenet_bc_22_12, and no densenet_bc_40_12: blocks \(3, 3, 3\)"):
        import_model(path, tmp_path / "model", model="densenet_bc_40_12")
    assert import_model(path, tmp_path / "model", model="densenet-bc-22-12").card.model.name == "densenet_bc_22_12"


def test_other_kinds_of_network_keep_their_names(file: Write, tmp_path: Path) -> None:
    made = build(config_for("torchvision:resnet18").model_copy(update={"num_classes": 5, "in_channels": 1}))
    path = file(data_parallel(made.state_dict()))
    done = import_model(path, tmp_path / "model", model="torchvision:resnet18")
    assert (done.card.model.num_classes, done.card.model.in_channels) == (5, 1)
    state = load(done.folder, device="cpu").model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "lit.net."])
def test_wrappers_of_other_kinds_come_off_too(prefix: str, file: Write, tmp_path: Path) -> None:
    made = build(config_for("resnet_8").model_copy(update={"num_classes": 5})).state_dict()
    path = file({f"{prefix}{name}": tensor for name, tensor in made.items()})
    state = load(import_model(path, tmp_path / "model", model="resnet_8").folder, device="cpu").model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in made.items())


def test_two_networks_of_another_kind_are_not_mixed(file: Write, tmp_path: Path) -> None:
    made = build(config_for("resnet_8")).state_dict()
    path = file(made | {f"module.{name}": tensor + 1 for name, tensor in made.items()})
    with pytest.raises(BadWeights, match=r"and module\.\S+ are both .*two networks"):
        import_model(path, tmp_path / "model", model="resnet_8")


def test_a_head_is_left_out_of_densenets_alone(file: Write, tmp_path: Path) -> None:
    path = file(build(config_for("resnet_8")).state_dict())
    with pytest.raises(InvalidInput, match="--no-head is for DenseNets, and resnet_8 is none"):
        import_model(path, tmp_path / "model", model="resnet_8", head=False)


def test_unknown_names_need_an_order(tmp_path: Path) -> None:
    save_file(Double(NAMES["nobody"]).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(BadWeights, match="safetensors keep no order"):
        import_model(tmp_path / "weights.safetensors", tmp_path / "model")


@pytest.mark.parametrize("change", ["layers", "blocks", "a norm", "nothing"])
def test_unknown_names_in_another_order_are_refused(change: str, file: Write, tmp_path: Path) -> None:
    """Layers of equal shapes could be taken for one another; growing inputs tell them apart."""
    names = list(Double(NAMES["nobody"]).state_dict())
    state = Double(NAMES["nobody"]).state_dict()
    if change == "layers":
        names.sort(key=lambda name: name.startswith("group2.unit1"))
    elif change == "blocks":
        names.sort(key=lambda name: not name.startswith("group3"))
    elif change == "a norm":
        names.sort(key=lambda name: name.startswith("group1.unit1.c"))
    path = file({name: state[name] for name in names})
    if change == "nothing":
        done = import_model(path, tmp_path / "model")
        assert any("matched by order and shapes" in note for note in done.notes)
        return
    with pytest.raises(BadWeights, match="order and shapes are not those of one DenseNet alone"):
        import_model(path, tmp_path / "model")


def test_safetensors_with_known_names_are_read(state: State, tmp_path: Path) -> None:
    save_file(monais(state), tmp_path / "weights.safetensors")
    done = import_model(tmp_path / "weights.safetensors", tmp_path / "model")
    assert done.layout == "MONAI"


def test_halves_and_doubles_become_floats(state: State, file: Write, tmp_path: Path) -> None:
    mixed = {
        key: value.double() if "conv" in key else value.half() if value.is_floating_point() else value
        for key, value in state.items()
    }
    account = import_model(file(mixed), tmp_path / "model").account
    assert set(account.converted.values()) == {"from float64", "from float16"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("features.conv0.weight", torch.full((16, 3, 7, 7), float("nan")), "no finite numbers"),
        ("features.norm5.bias", torch.full((34,), float("inf")), "no finite numbers"),
        ("features.norm5.bias", torch.full((34,), -1e300, dtype=torch.float64), r"beyond float32, up to 1e\+300"),
        ("features.norm5.running_var", torch.full((34,), -1.0), "negative variances"),
        ("features.norm5.weight", torch.ones(34, dtype=torch.int32), "is int32"),
        ("features.norm5.weight", torch.ones(34, dtype=torch.complex64), "is complex64"),
        ("features.norm5.weight", torch.ones(34).to_sparse(), "is sparse"),
    ],
)
def test_numbers_that_no_network_can_compute_with_are_refused(
    name: str, value: Tensor, words: str, state: State, file: Write, tmp_path: Path
) -> None:
    assert value.shape == state[name].shape
    with pytest.raises(BadWeights, match=words):
        import_model(file(state | {name: value}), tmp_path / "model")


def test_a_keras_layer_that_changes_the_function_is_refused(state: State, tmp_path: Path) -> None:
    layers = keras_layers(state)
    strange = config_of(layers, 64, {"class_name": "Rescaling", "config": {"name": "scale"}})
    with pytest.raises(BadWeights, match="layer scale is a Rescaling"):
        import_model(write_h5(tmp_path / "a.h5", layers, config=strange), tmp_path / "model")
    sigmoid = config_of(layers, 64, {"class_name": "Activation", "config": {"name": "end", "activation": "sigmoid"}})
    with pytest.raises(BadWeights, match="layer end ends in sigmoid"):
        import_model(write_h5(tmp_path / "b.h5", layers, config=sigmoid), tmp_path / "model")


Change = dict[str, object]
_POOL = {"name": "pool", "pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}


@pytest.mark.parametrize(
    ("layer", "change", "words"),
    [
        ("conv1_conv", {"padding": "same"}, "conv1_conv, a Conv2D, moves by 2 with padding same"),
        ("conv1_conv", {"strides": [1, 1]}, r"has strides 1, where densekit's DenseNet has 2"),
        ("conv2_block1_2_conv", {"strides": [2, 2]}, r"has strides 2, where densekit's DenseNet has 1"),
        ("conv2_block1_2_conv", {"dilation_rate": [2, 2]}, "conv2_block1_2_conv, a Conv2D, has dilation_rate 2"),
        ("conv2_block1_2_conv", {"groups": 4}, "has groups 4"),
        ("conv2_block1_2_conv", {"activation": "relu"}, "has activation relu, where densekit's DenseNet has linear"),
        ("predictions", {"activation": "relu"}, "layer predictions ends in relu"),
        ("end", {"class_name": "ReLU", "max_value": 6.0}, "layer end, a ReLU, has max_value 6"),
        ("end", {"class_name": "ReLU", "negative_slope": 0.1}, "has negative_slope 0.1"),
        ("end", {"class_name": "ReLU", "threshold": 1.0}, r"has threshold 1\.0"),
        ("end", {"class_name": "AveragePooling2D", **_POOL, "strides": [1, 1]}, "has strides 1"),
        ("end", {"class_name": "MaxPooling2D", **_POOL}, "has pool_size 2"),
        ("end", {"class_name": "MaxPooling2D", **_POOL, "pool_size": [3, 3]}, "only after a first 7x7 convolution"),
    ],
)
def test_a_keras_setting_that_changes_the_function_is_refused(
    layer: str, change: Change, words: str, state: State, tmp_path: Path
) -> None:
    layers = keras_layers(state)
    config = config_of(layers, 64, *([] if layer in layers else [{"class_name": "", "config": {"name": layer}}]))
    settings = {entry["config"]["name"]: entry for entry in config["config"]["layers"]}
    change = dict(change)
    settings[layer]["class_name"] = change.pop("class_name", settings[layer]["class_name"])
    settings[layer]["config"] |= change
    with pytest.raises(BadWeights, match=words):
        import_model(write_h5(tmp_path / "a.h5", layers, config=config), tmp_path / "model")


def test_padding_same_of_a_mean_of_pixels_is_refused_where_it_pads(state: State, tmp_path: Path) -> None:
    layers = keras_layers(state)
    even, odd = config_of(layers, 64), config_of(layers, 62)
    for config in (even, odd):
        settings = {entry["name"]: entry["config"] for entry in config["config"]["layers"]}
        settings["pool2_conv_pool"]["padding"] = "same"
    import_model(write_h5(tmp_path / "even.h5", layers, config=even), tmp_path / "model")
    with pytest.raises(BadWeights, match="moves by 2 with padding same"):  # behind a stem that halves 62 to 31
        import_model(write_h5(tmp_path / "odd.h5", layers, config=odd), tmp_path / "other")


def test_a_keras_network_that_ends_in_a_sigmoid_is_multi_label(state: State, tmp_path: Path) -> None:
    layers = keras_layers(state)
    config = config_of(layers)
    head = config["config"]["layers"][-1]["config"]
    head["activation"] = "sigmoid"
    done = import_model(write_h5(tmp_path / "a.h5", layers, config=config), tmp_path / "a")
    assert (done.card.task, done.card.thresholds) == ("multi-label", ())
    assert any("do not exclude each other" in note for note in done.notes)
    config = config_of(layers, 64, {"class_name": "Activation", "config": {"name": "end", "activation": "sigmoid"}})
    config["config"]["layers"][-2]["config"]["activation"] = "linear"
    assert import_model(write_h5(tmp_path / "b.h5", layers, config=config), tmp_path / "b").card.task == "multi-label"
    ends = [{"class_name": "Activation", "config": {"name": f"{a}", "activation": a}} for a in ("sigmoid", "linear")]
    config = config_of(layers, 64, *ends)
    with pytest.raises(BadWeights, match=r"ends in sigmoid, where densekit has a ReLU, or a softmax or sigmoid at"):
        import_model(write_h5(tmp_path / "c.h5", layers, config=config), tmp_path / "c")


def test_what_a_file_does_not_tell_of_its_labels_can_be_said(state: State, file: Write, tmp_path: Path) -> None:
    assert import_model(file(state), tmp_path / "one").card.task == "single-label"
    done = import_model(file(state), tmp_path / "several", multi_label=True)
    assert done.card.task == "multi-label"
    Image.new("RGB", (224, 224)).save(tmp_path / "black.png")
    classifier, preprocessing = load(done.folder, device="cpu"), done.card.preprocessing
    found = [row["probability"] for row in classifier.predict(str(tmp_path / "black.png")).top(7)]
    x = -torch.tensor(preprocessing.mean) / torch.tensor(preprocessing.std)
    with torch.inference_mode():
        logits = classifier.model(x.view(1, 3, 1, 1).expand(-1, -1, 224, 224))[0]
    torch.testing.assert_close(torch.tensor(found), logits.sigmoid().sort(descending=True).values, rtol=1e-4, atol=1e-5)


def test_keras_says_its_epsilon_and_image_size(state: State, tmp_path: Path) -> None:
    layers = keras_layers(state)
    card = import_model(write_h5(tmp_path / "a.h5", layers, config=config_of(layers, 96)), tmp_path / "model").card
    assert isinstance(card.model, DenseNetConfig)
    assert card.model.norm_eps == 1.001e-5
    assert card.preprocessing.size == card.model.image_size == (96, 96)


def test_statistics_are_given_or_assumed_or_unknown(state: State, file: Write, tmp_path: Path) -> None:
    path = file(state)
    assumed = import_model(path, tmp_path / "assumed")
    assert assumed.card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert any("which the names suggest" in note for note in assumed.notes)
    given = import_model(path, tmp_path / "given", mean=(0.1, 0.2, 0.3), std=(1, 2, 3), image_size=96)
    assert given.card.preprocessing.std == (1, 2, 3)
    assert (given.card.preprocessing.size, given.card.preprocessing.resize) == ((96, 96), 110)
    unknown = import_model(file(monais(state)), tmp_path / "unknown")
    assert not unknown.card.preprocessing.known


def test_predictions_say_that_statistics_are_unknown(state: State, file: Write, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "grey.png")
    import_model(file(monais(state)), tmp_path / "model")
    prediction = load(tmp_path / "model", device="cpu").predict(str(tmp_path / "grey.png"))
    assert any("--mean and --std" in notice for notice in prediction.notices)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "go together"),
        ({"mean": (0.5,), "std": (0.5,)}, "--mean has 1 values; the network reads 3 channels"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "a deviation is above 0"),
        ({"mean": (0.5, float("nan"), 0.5), "std": (0.5,) * 3}, "--mean 0.5,nan,0.5: give finite numbers"),
        ({"mean": (0.5,) * 3, "std": (0.5, float("inf"), 0.5)}, "--std 0.5,inf,0.5: give finite numbers"),
        ({"classes": ("a", "b")}, "2 names, and the network 7 classes"),
        ({"image_size": 8}, "image size 8x8 is too small"),
    ],
)
def test_wrong_settings_are_refused(
    settings: dict[str, Any], words: str, state: State, file: Write, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=words):
        import_model(file(state), tmp_path / "model", **settings)


def test_classes_nested_too_deeply_are_refused(state: State, file: Write, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text("[" * 100_000)
    with pytest.raises(InvalidInput, match=r"cannot read --classes .*nested too deeply"):
        import_model(file(state), tmp_path / "model", classes=tmp_path / "classes.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.txt", "a\nb\nc\nd\ne\nf\ng\n\n"),
        ("list.json", json.dumps(list("abcdefg"))),
        ("index.json", json.dumps({str(i): [f"n{i}", letter] for i, letter in enumerate("abcdefg")})),
    ],
)
def test_classes_are_read_in_common_forms(name: str, text: str, state: State, file: Write, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    done = import_model(file(state), tmp_path / "model", classes=tmp_path / name)
    assert done.card.classes == tuple("abcdefg")


def test_a_published_file_is_known_by_its_hash(
    state: State, file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(state)
    monkeypatch.setattr("densekit.weights.foreign.sandbox.PUBLISHED_SHA256", (digest(path)[:8],))
    done = import_model(path, tmp_path / "model")
    assert "images: mean and std are ImageNet's" in done.notes
    assert done.card.preprocessing.known


def test_numbered_classes_are_nobodys(file: Write, tmp_path: Path) -> None:
    """The digits' classes are called 0 to 9; a head for other ten things is not theirs."""
    made = create_model("densenet_bc_10_4")
    import_model(file(made.state_dict()), tmp_path / "model")
    config = config_for("densenet_bc_10_4")
    digits = tuple(map(str, range(10)))
    assert start_from(build(config), config, str(tmp_path / "model"), digits).new == (
        "classifier.weight",
        "classifier.bias",
    )


def test_a_thousand_classes_of_torchvision_have_imagenets_names(file: Write, tmp_path: Path) -> None:
    done = import_model(file(perturb(torchvisions(classes=1000)).state_dict()), tmp_path / "model")
    assert done.card.classes[0] == "tench"
    assert any("--classes FILE" in note for note in done.notes)


def test_xray_weights_say_what_their_outputs_are(file: Write, tmp_path: Path) -> None:
    state = perturb(torchvisions(channels=1, classes=18)).state_dict()
    done = import_model(file(state | {"op_threshs": torch.rand(18)}), tmp_path / "model")
    assert (done.card.preprocessing.mean, done.card.preprocessing.std) == ((0.5,), (1 / 2048,))
    assert done.card.task == "multi-label"
    assert any("do not exclude each other" in note for note in done.notes)


def test_an_existing_folder_is_not_overwritten(state: State, file: Write, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("mine")
    with pytest.raises(InvalidInput, match="exists and is not empty"):
        import_model(file(state), tmp_path / "model")


def test_compression_survives_rounding() -> None:
    """A quotient of whole numbers is seldom a float."""
    assert compression_of([(112, 56), (152, 76)]) == 0.5
    assert compression_of([(100, 70), (103, 72)]) is not None
    for before in range(1, 300):
        theta = compression_of([(before, max(1, before // 3))])
        assert theta is not None
        assert int(theta * before) == max(1, before // 3)
    assert compression_of([(100, 50), (100, 51)]) is None


def test_channels_are_reordered_one_to_one() -> None:
    config = config_for("densenet_bc_22_12")
    assert isinstance(config, DenseNetConfig)
    for name, order in read_channels(config).items():
        assert sorted(order.tolist()) == list(range(len(order))), name


def test_a_transition_without_relu_has_none() -> None:
    """Huang et al. 2017, sec. 3, describes it so; the authors' code has one."""
    model = expect_type(create_model("densenet_bc_22_12", transition_relu=False), DenseNet)
    (first, _) = (module for module in model.modules() if isinstance(module, Transition))
    perturb(model)
    x = torch.randn(2, 60, 8, 8)
    expected = nn.functional.avg_pool2d(first.conv(first.norm(x)), 2)
    torch.testing.assert_close(first(x), expected, rtol=1e-5, atol=1e-6)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), model.forward_head(model.features(x).relu()), rtol=1e-5, atol=1e-5)


def test_epsilon_reaches_every_batch_norm() -> None:
    model = create_model("densenet121", norm_eps=1.001e-5)
    assert {module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {1.001e-5}
