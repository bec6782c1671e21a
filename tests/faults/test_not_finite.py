"""Weights, outputs and settings that are not finite are named where they are met, and never reach JSON."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

import densekit as package
from densekit import export_model, strict_json
from densekit.config import Preprocessing
from densekit.errors import BadData, BadImage, BadWeights, InvalidInput, NotFinite, ProofFailed
from densekit.export import parity
from densekit.export.runtime import OnnxClassifier
from densekit.inference import runtimes
from densekit.inference.classifier import Classifier
from densekit.runs import run_folder
from densekit.serve.explanation import explain
from densekit.training.compose import compose
from densekit.weights import load_model, save_model
from densekit.weights.folder import CONFIG, ModelCard
from tests.conftest import Command
from tests.export.nets import write_net
from tests.serve.benches import answers
from tests.serve.servers import picture


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("net"), "densenet_bc_10_4", image_size=16, in_channels=1, num_classes=3)


@pytest.fixture(scope="module")
def exported(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export_model(net, out, formats=("onnx", "openvino", "torch"))
    return out


def changed(net: Path, folder: Path, change: Callable[[dict[str, Tensor]], object], **card: Any) -> Path:
    """A copy of a model folder with other weights."""
    model, before = load_model(net)
    state = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in model.state_dict().items()}
    change(state)
    save_model(folder, state, before.model_copy(update=card))
    return folder


@pytest.fixture(scope="module")
def overflowing(net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finite weights whose logits are infinite, each of the same sign: a sigmoid would be 1."""

    def grow(state: dict[str, Tensor]) -> None:
        state["classifier.weight"].fill_(3e38)

    return changed(net, tmp_path_factory.mktemp("overflowing") / "net", grow)


@pytest.mark.parametrize(
    ("name", "value"),
    [("features.conv0.weight", float("nan")), ("features.norm5.running_var", float("inf"))],
)
def test_weights_that_are_not_finite_are_named_when_they_are_read(
    name: str, value: float, net: Path, tmp_path: Path, densekit: Command
) -> None:
    """An infinite variance makes finite outputs: only a look at the weights finds it."""
    bad = changed(net, tmp_path / "bad", lambda state: state[name].view(-1)[:1].fill_(value))
    (tmp_path / "a.png").write_bytes(picture(0, (16, 16)))
    words = f"holds weights that are not finite, in 1 of {len(load_model(net)[0].state_dict())} tensors ({name})"
    for verb in (
        ["predict", bad, tmp_path / "a.png"],
        ["export", bad, "--format", "torch", "--out", tmp_path / "out"],
        ["train", "digits", "--model", "densenet_bc_10_4", "--init", bad, "--out", tmp_path / "run"],
    ):
        status, out, err = densekit(*verb)
        assert (status, out) == (3, "")
        assert words in err


@pytest.mark.parametrize("format_", ["onnx", "openvino", "torch"])
def test_weights_of_an_exported_file_are_looked_at(format_: str, exported: Path, tmp_path: Path) -> None:
    """Runtimes may drop NaN, as the larger of NaN and 0, and answer as if nothing were wrong."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    path = tmp_path / {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}[format_]
    if format_ == "torch":
        program = torch.export.load(path)
        next(value for value in program.state_dict.values() if value.dim() == 4).data.view(-1)[0] = float("nan")
        torch.export.save(program, path)
    else:
        model = onnx.load(str(exported / "model.onnx"))
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        values = numpy_helper.to_array(weight).copy()
        values.flat[0] = np.nan
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, str(tmp_path / "model.onnx"))
        if format_ == "openvino":
            openvino.save_model(openvino.Core().read_model(tmp_path / "model.onnx"), path, compress_to_fp16=False)
    with pytest.raises(NotFinite, match=r"in 1 tensors \(.*weight"):
        runtimes.open_file(path)
    assert runtimes.open_file(exported / path.name)


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_an_image_whose_outputs_are_not_finite_gets_an_error(
    task: str, overflowing: Path, tmp_path: Path, densekit: Command
) -> None:
    model = changed(overflowing, tmp_path / "net", lambda _: None, task=task)
    (tmp_path / "a.png").write_bytes(picture(0, (16, 16)))
    status, out, _ = densekit("predict", model, tmp_path / "a.png", tmp_path / "a.png", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 3
    assert [row["error"]["code"] for row in rows] == ["not_finite"] * 2
    assert "a.png are not finite" in rows[0]["error"]["message"]


def test_only_the_image_with_such_outputs_gets_the_error(net: Path) -> None:
    classifier = package.load(net)
    assert isinstance(classifier, Classifier)

    def spoil(_: object, inputs: tuple[Tensor], logits: Tensor) -> None:
        logits[inputs[0].mean((1, 2, 3)) > 2, 1] = float("inf")

    classifier.model.register_forward_hook(spoil)
    white = io.BytesIO()
    Image.new("L", (16, 16), 255).save(white, "PNG")
    images = [picture(0, (16, 16)), white.getvalue(), picture(1, (16, 16))]
    outcomes = list(classifier.predict_each(images))
    assert [isinstance(outcome, BadImage) for outcome in outcomes] == [False, True, False]
    with pytest.raises(BadImage, match="not finite"):
        classifier.predict(images[1])
    served, _ = answers(classifier, images)
    assert [answer.get("error", {}).get("code") for answer in served] == [None, "not_finite", None]


def test_the_runtime_without_torch_has_the_same_error(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = OnnxClassifier(exported / "model.onnx")
    monkeypatch.setattr(OnnxClassifier, "logits", lambda *_: np.array([[np.inf, 0, 1]], np.float32))
    with pytest.raises(BadImage, match="not finite") as error:
        classifier.predict(picture(0, (16, 16)))
    assert error.value.code == "not_finite"


def test_outputs_that_are_not_finite_are_not_explained(overflowing: Path) -> None:
    classifier = package.load(overflowing)
    model = classifier.model
    assert isinstance(classifier, Classifier)
    # It computes in float64, where these weights do not overflow yet.
    model.get_parameter("classifier.weight").data.fill_(float("inf"))
    with pytest.raises(BadImage, match="not finite"):
        explain(classifier, torch.zeros(1, 1, 16, 16, dtype=torch.uint8), (16, 16))


def digits_net(folder: Path) -> Path:
    """Of ten classes, with outputs that overflow."""
    net = write_net(folder / "digits", "densenet_bc_10_4", image_size=8, in_channels=1, num_classes=10)
    names = tuple(str(i) for i in range(10))
    return changed(net, folder / "net", lambda state: state["classifier.weight"].fill_(3e38), classes=names)


def test_neither_evaluate_nor_analyse_measures_such_outputs(tmp_path: Path, densekit: Command) -> None:
    model = digits_net(tmp_path)
    status, out, err = densekit("evaluate", model, "digits", "--split", "all", "--json")
    assert (status, out) == (3, "")
    assert re.search(r"are not finite for 1,7\d\d of 1,797 images of digits, all \(", err)
    status, out, err = densekit("analyse", model, "digits", "--only", "gradients", "--out", tmp_path / "analysis")
    assert (status, out) == (3, "")
    assert "outputs are not finite for" in err


def test_a_network_with_such_outputs_is_not_exported(overflowing: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match="answers are not finite"):
        export_model(overflowing, tmp_path / "out")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_in_one_batch_are_no_proof(value: float) -> None:
    """`max(0.0, nan)` is 0.0."""

    def run(images: np.ndarray) -> np.ndarray:
        logits = np.ones((len(images), 3), np.float32)
        if len(images) == parity.BATCHES[1]:
            logits[0, 0] = value
        return logits

    images = np.zeros((parity.IMAGES, 1, 4, 4), np.float32)
    assert not parity.by_company(run, images) <= parity.COMPANY


def test_8_bits_that_answer_nan_are_refused(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from densekit.export import export_model as exporting

    records = exporting._Export._records

    def overflowed(work: Any, opened: Any, passport: Any) -> Any:
        if passport.precision == "int8":
            raise NotFinite("the outputs are not finite")
        return records(work, opened, passport)

    monkeypatch.setattr(exporting._Export, "_records", overflowed)
    with pytest.raises(ProofFailed, match="in 8 bits is refused: the outputs are not finite"):
        export_model(tiny_run, tmp_path / "out", int8=True, calibration=8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.lr", "inf"),
        ("optimizer.weight_decay", "nan"),
        ("ema.decay", "nan"),
        ("schedule.milestones", "[.nan, 0.5]"),
        ("data.window", "[0, .inf]"),
        ("augment.crop_scale", "[0.1, .inf]"),
    ],
)
def test_settings_are_finite(key: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"{key}.*should be a finite number"):
        compose("digits", settings={key: value})


@pytest.mark.parametrize("std", [0.0, float("nan"), float("inf")])
def test_a_deviation_that_images_cannot_be_divided_by_is_refused(std: float, net: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Preprocessing(channels=1, size=(4, 4), resize=4, mean=(0.5,), std=(std,))
    shutil.copytree(net, tmp_path / "net")
    card = json.loads((net / CONFIG).read_text())
    card["preprocessing"]["std"] = [std]
    (tmp_path / "net" / CONFIG).write_text(json.dumps(card))
    with pytest.raises(BadWeights, match=r"preprocessing\.std"):
        load_model(tmp_path / "net")


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.dumps({"loss": float("nan")})


def test_what_older_versions_wrote_of_undefined_numbers_is_read(net: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 1.5, "val_loss": NaN}\n')
    run_folder.append_row(tmp_path, {"epoch": 2, "train_loss": 1.0, "val_loss": 1.2})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert run_folder.metrics(tmp_path)[0] == {"epoch": 1, "train_loss": 1.5}
    card = json.loads((net / CONFIG).read_text()) | {"metrics": {"top1": 0.5, "loss": float("nan")}}
    assert ModelCard.model_validate_json(json.dumps(card)).metrics == {"top1": 0.5, "loss": None}


def test_the_result_of_a_run_that_had_diverged_unnoticed_is_none(tiny_run: Path, tmp_path: Path) -> None:
    """As older versions left it; a study would average its accuracy with the others'."""
    result = json.loads((tiny_run / "result.json").read_text()) | {"loss": float("nan")}
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(BadData, match="the run diverged"):
        run_folder.result_of(tmp_path)
