"""--int8 says what it costs on images held out, and is refused where that is too much."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from densekit import Run, evaluate, export_model, load, train
from densekit.data.sets import ArrayImages
from densekit.errors import BadData, InvalidInput, ProofFailed
from densekit.export import export_model as exporting
from densekit.export import parity_inputs, quantization_report
from densekit.export.quantise import quantise
from densekit.inference.exported_network import load_exported
from densekit.inference.runtimes import open_file
from densekit.metrics.multi_label import MultiLabel, MultiLabelRecords
from densekit.metrics.single_label import Records
from tests.conftest import write_photos
from tests.export.nets import write_net
from tests.narrow import expect_type, not_none


@pytest.fixture(scope="module")
def quantised(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> exporting.ExportedModel:
    out = tmp_path_factory.mktemp("int8") / "out"
    return export_model(tiny_run, out, formats=("onnx", "openvino", "triton"), int8=True, max_drop=0.2, calibration=64)


@pytest.mark.parametrize("name", ["onnx", "openvino", "triton"])
def test_the_accuracy_reported_is_that_of_the_file(
    quantised: exporting.ExportedModel, tiny_run: Path, name: str
) -> None:
    row = next(row for row in quantised.report["files"] if row["format"] == name)
    assert row["int8"]["top1_before"] == pytest.approx(evaluate(tiny_run).top1)
    assert row["int8"]["top1_after"] == pytest.approx(evaluate(quantised.files[name]).top1)
    assert [race["batch"] for race in row["speed"]] == [1, 32]
    assert all(race["milliseconds"].keys() == {"float32", "int8"} for race in row["speed"])


def test_convolutions_hold_bytes_and_the_file_says_so(quantised: exporting.ExportedModel) -> None:
    graph = onnx.load(str(quantised.files["onnx"])).graph
    bytes_of = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert sum(len(tensor.dims) == 4 for tensor in bytes_of.values()) == sum(n.op_type == "Conv" for n in graph.node)
    assert load_exported(quantised.files["onnx"])[0].passport.precision == "int8"


def test_no_image_held_out_is_calibrated_on(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def watching(onnx_file: Path, batches: Any, path: Path) -> None:
        seen.extend(batches)
        quantise(onnx_file, iter(seen), path)

    found: list[parity_inputs.Real] = []

    def finding(*given: Any, **named: Any) -> parity_inputs.Real | None:
        found.append(not_none(parity_inputs.images_for(*given, **named)))
        return found[0]

    monkeypatch.setattr(exporting, "quantise", watching)
    monkeypatch.setattr(exporting, "images_for", finding)
    export_model(tiny_run, tmp_path / "out", int8=True, max_drop=1.0, calibration=10_000, preprocess=True)
    calibrated = {image.tobytes() for image in np.concatenate(seen)}
    held_out = {
        image.permute(1, 2, 0).numpy().tobytes() for image in expect_type(found[0].held_out, ArrayImages).pixels
    }
    assert len(calibrated) == len({x.numpy().tobytes() for x in expect_type(found[0].train, ArrayImages).pixels})
    assert not calibrated & held_out


def test_no_copy_of_an_image_held_out_is_calibrated_on(tmp_path: Path) -> None:
    """In other data, whose splits are as somebody made them."""
    net = write_net(tmp_path / "net", "densenet_bc_10_4", num_classes=2, image_size=16)
    classes = ("class 0", "class 1")
    new = tmp_path / "new"
    write_photos(new / "test", classes=classes, count=20, size=16)
    shutil.copytree(new / "test", new / "train")
    card = load(net).card
    with pytest.raises(BadData, match="all images of new to calibrate by are among those held out"):
        parity_inputs.images_for(net, card, str(new), tmp_path, needed=True)
    write_photos(new / "train" / "class 0", classes=("more",), count=12, size=18)
    found = parity_inputs.images_for(net, card, str(new), tmp_path, needed=True)
    assert found is not None
    assert len(found.held_out) == 40
    assert len(found.train) > 5
    assert all(name.startswith("class 0/more/") for name in found.train.names())


@pytest.mark.parametrize("columns", ["path,label", "picture,what"])
def test_naming_the_models_own_data_is_naming_none(columns: str, tmp_path: Path) -> None:
    """They are read by the same columns, and divided by the same shares, so that nothing is in both parts."""
    photos = write_photos(tmp_path / "photos", count=75, size=16)
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    (photos / "own.csv").write_text("\n".join([columns, *rows]))
    path, label = columns.split(",")
    settings = {"data.path_column": path, "data.label_columns": label, "data.test_fraction": 0.3}
    settings |= {"data.image_size": 16, "batch_size": 50, "plan": "concat"}
    data = f"csv:{photos}/own.csv"
    run = train(data, model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings).folder
    card = load(run).card
    without, named = (parity_inputs.images_for(run, card, given, tmp_path, needed=True) for given in (None, data))
    assert without is not None
    assert named is not None
    assert named.train.names() == without.train.names()
    assert named.held_out.names() == without.held_out.names()
    assert len(named.held_out) == 44
    assert not {*named.train.names()} & {*named.held_out.names()}


def test_answers_that_depend_on_their_company_are_refused(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def opened(path: Path, *threads: int) -> Any:
        found = open_file(path, *threads)
        if found.passport(path).precision != "int8":
            return found
        return replace(found, run=lambda images: found.run(images) * len(images))

    monkeypatch.setattr(exporting, "open_file", opened)
    with pytest.raises(ProofFailed, match="between batches of 1, 2, 7"):
        export_model(tiny_run, tmp_path / "out", int8=True, max_drop=1.0, calibration=32)
    assert not list(tmp_path.iterdir())


def test_too_great_a_drop_is_refused_and_leaves_no_file(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = exporting._Export._records
    off = iter((0, 1))

    def answers(self: Any, *arguments: Any) -> Any:
        rows = expect_type(records(self, *arguments), Records)
        return replace(rows, predicted=rows.target + next(off))

    monkeypatch.setattr(exporting._Export, "_records", answers)
    with pytest.raises(ProofFailed, match=r"top-1 falls from 100.00% to 0.00% on 179 images"):
        export_model(tiny_run, tmp_path / "out", int8=True, calibration=32)
    assert not list(tmp_path.iterdir())


def test_a_model_without_data_needs_some_named(tmp_path: Path) -> None:
    net = write_net(tmp_path / "net", "densenet_bc_10_4", num_classes=5, image_size=8)
    with pytest.raises(InvalidInput, match="add --data DATA"):
        export_model(net, tmp_path / "out", int8=True)
    assert torch.is_grad_enabled()


def test_of_several_labels_the_mean_auroc_is_that_of_the_file(xray_run: Run, xrays: Path, tmp_path: Path) -> None:
    found = export_model(
        xray_run.folder, tmp_path / "out", formats=("onnx", "openvino"), int8=True, max_drop=0.1, calibration=64
    )
    before = evaluate(xray_run.folder)
    for row in found.report["files"]:
        told, after = row["int8"], evaluate(found.files[row["format"]], f"csv:{xrays}")
        assert (after.split, after.count) == (before.split, before.count)
        assert told["auroc_before"] == pytest.approx(before.auroc, abs=1e-3)  # float32 in another runtime
        assert told["auroc_after"] == pytest.approx(after.auroc, abs=1e-9)
        assert told["drop"] == pytest.approx(told["auroc_before"] - told["auroc_after"])
        areas = {each["class"]: each["auroc"] for each in after.per_class if each["auroc"] is not None}
        assert {each["class"]: each["auroc_after"] for each in told["per_class"]} == pytest.approx(areas)
        assert 0 <= told["decisions_changed"] < told["decisions"] == before.count * len(before.per_class)


def test_of_several_labels_a_fall_of_the_mean_auroc_is_refused(
    xray_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = exporting._Export._records
    sign = iter((1, -1))

    def answers(self: Any, *arguments: Any) -> Any:
        rows = expect_type(records(self, *arguments), MultiLabelRecords)
        return replace(rows, score=next(sign) * rows.target.astype(float))

    monkeypatch.setattr(exporting._Export, "_records", answers)
    with pytest.raises(ProofFailed, match=r"the mean AUROC falls from 1.0000 to 0.0000 on \d+ images"):
        export_model(xray_run.folder, tmp_path / "out", int8=True, calibration=32)
    assert not list(tmp_path.iterdir())


def test_where_no_label_varies_nothing_can_be_judged() -> None:
    target = np.array([[1.0, np.nan], [1.0, 0.0]], dtype=np.float32)
    rows = MultiLabelRecords(np.arange(2), target, np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(BadData, match="name other --data"):
        quantization_report.cost("onnx", MultiLabel(("a", "b")), rows, rows, 0.01)
