"""An exported file is the network, whatever the format, the batch and where preprocessing is done."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import densekit
from densekit import evaluate, export_model, load
from densekit.config import Preprocessing
from densekit.data.decoding.decode import decode
from densekit.data.loader import normalise, pixels_of
from densekit.errors import BadData, BadWeights, InvalidInput
from densekit.export import writers
from densekit.export.network import folded
from densekit.inference.exported_network import load_exported
from densekit.inference.runtimes import open_file
from densekit.metrics.single_label import Result
from densekit.models import create_model
from densekit.weights import load_model, model_folder, read_card
from densekit.weights.redaction import without_paths
from tests.conftest import write_photos
from tests.export.nets import write_net
from tests.narrow import expect_type

FILES = ("model.onnx", "model.xml", "model.pt2", "triton")


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny run in every format, with preprocessing outside and inside."""
    made = {}
    for place in ("outside", "inside"):
        made[place] = tmp_path_factory.mktemp("exported") / place
        names = ("onnx", "openvino", "torch", "triton")
        export_model(tiny_run, made[place], formats=names, preprocess=place == "inside")
    return made


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_evaluation_and_prediction_are_those_of_the_run(
    exported: dict[str, Path], tiny_run: Path, tmp_path: Path, file: str, place: str
) -> None:
    mine, theirs = (expect_type(evaluate(model), Result) for model in (tiny_run, exported[place] / file))
    assert (theirs.data, theirs.split, theirs.confusion) == (mine.data, mine.split, mine.confusion)
    assert theirs.loss == pytest.approx(mine.loss, rel=1e-5)
    Image.effect_noise((23, 31), 90).save(tmp_path / "a.png")
    own, other = (load(model).predict(tmp_path / "a.png") for model in (tiny_run, exported[place] / file))
    assert other.classes == own.classes
    np.testing.assert_allclose(other.probabilities, own.probabilities, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_classes_preprocessing_and_origin_travel_inside(
    exported: dict[str, Path], tiny_run: Path, file: str, place: str
) -> None:
    network, card = load_exported(exported[place] / file)
    own = read_card(model_folder(tiny_run))
    assert network.passport.inside == (place == "inside")
    assert network.passport.preprocessing == own.preprocessing
    assert card.model_copy(update={"preprocessing": own.preprocessing}) == without_paths(own)[0]


@pytest.mark.parametrize("file", FILES[:3])
def test_any_batch_goes_through_one_file(exported: dict[str, Path], file: str) -> None:
    """And an image has the same answer in all of them."""
    run = open_file(exported["outside"] / file).run
    images = np.random.default_rng(0).standard_normal((7, 1, 8, 8), dtype=np.float32)
    whole = run(images)
    for batch in (1, 2, 7):
        np.testing.assert_allclose(run(images[:batch]), whole[:batch], rtol=1e-4, atol=1e-4)


_TWO_MODELS = """
import os, signal, sys
from pathlib import Path
from densekit.inference.runtimes import open_file

first, second = (open_file(Path(sys.argv[1])) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_signals_are_handled_when_two_models_were_opened(exported: dict[str, Path]) -> None:
    """OpenVINO may leave a thread a stack for signal handlers that is gone, and the next signal ends the process."""
    words = [sys.executable, "-c", _TWO_MODELS, str(exported["outside"] / "model.xml")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_the_graph_is_folded_and_joins_two_maps_at_least(tmp_path: Path) -> None:
    """Of norms only those stay whose input others read too: one of each layer, of each transition, and the last."""
    net = write_net(tmp_path / "net", "densenet_bc_16_4", image_size=16, in_channels=3, num_classes=5)
    export_model(net, tmp_path / "out")
    graph = onnx.load(str(tmp_path / "out/model.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("BatchNormalization") == 3 * 2 + 2 + 1
    joins = [len(node.input) for node in graph.node if node.op_type == "Concat"]
    assert joins
    assert min(joins) >= 2
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    order = [kind for kind in kinds if kind in ("AveragePool", "Conv")]
    first = order.index("AveragePool")
    assert order[: first + 2] == ["Conv"] * first + ["AveragePool", "Conv"]
    assert b"/src/" not in (tmp_path / "out/model.onnx").read_bytes()  # paths of the machine that made it


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("densenet_bc_16_4", {"dropout_rate": 0.2, "in_channels": 1}),
        ("densenet_bc_16_4", {"transition_relu": False}),
        ("densenet_bc_16_4", {"pool_first": False}),
        ("densenet_10_4", {}),
        ("densenet121", {"blocks": (2, 2), "growth_rate": 4, "stem_channels": 8, "image_size": 32}),
        ("resnet_8", {}),
        ("stochastic_depth_resnet_8", {}),
        ("preact_resnet_11", {}),
    ],
)
def test_folding_changes_no_answer(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    net, _ = load_model(write_net(tmp_path / "net", name, num_classes=5, **({"image_size": 16} | settings)), "concat")
    x = torch.randn(2, net.config.in_channels, *net.config.image_size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(net).double()(x), net.double()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("densenet_bc_10_4", {"dropout_rate": 0.2, "in_channels": 1, "image_size": 9}),
        ("densenet_10_4", {"image_size": (8, 12)}),
        ("stochastic_depth_resnet_8", {"image_size": 8}),
        ("preact_resnet_11", {"image_size": 8}),
    ],
)
def test_odd_networks_are_exported_and_proved(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    net = write_net(tmp_path / "net", name, num_classes=5, **settings)
    done = export_model(net, tmp_path / "out", formats=("onnx", "openvino", "torch"))
    assert [row["same_top1"] for file in done.report["files"] for row in file["batches"]] == [1, 2, 7] * 3


def test_preprocessing_in_the_graph_is_preprocessing_outside(tmp_path: Path) -> None:
    net = write_net(tmp_path / "net", "densenet_bc_10_4", image_size=12, num_classes=5)
    runs = []
    for inside in (False, True):
        out = tmp_path / str(inside)
        export_model(net, out, preprocess=inside)
        runs.append(open_file(out / "model.onnx").run)
    pixels = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8)
    images = normalise(pixels.float().div(255), read_card(net).preprocessing)
    np.testing.assert_allclose(
        runs[1](pixels.permute(0, 2, 3, 1).numpy()), runs[0](images.numpy()), rtol=1e-5, atol=1e-5
    )


def test_a_triton_repository_has_what_triton_reads(exported: dict[str, Path]) -> None:
    (folder,) = (exported["inside"] / "triton").iterdir()
    config = (folder / "config.pbtxt").read_text()
    assert {path.name for path in folder.iterdir()} == {"1", "config.pbtxt", "labels.txt"}
    assert f'name: "{folder.name}"' in config
    assert "dynamic_batching" in config
    assert "TYPE_UINT8" in config
    assert "dims: [ 8, 8, 1 ]" in config
    assert (folder / "labels.txt").read_text().splitlines() == [str(i) for i in range(10)]


def test_the_report_tells_what_was_compared(exported: dict[str, Path]) -> None:
    report = json.loads((exported["outside"] / "parity.json").read_text())
    assert report["images"] == "digits, test"
    for file in report["files"]:
        assert [row["batch"] for row in file["batches"]] == [1, 2, 7]
        assert all(row["error"] <= row["allowed"] and row["same_top1"] == row["batch"] for row in file["batches"])


def test_a_graph_of_somebody_else_is_refused(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum((2, 3))

    writers.write_onnx(writers.program_of(Sum(), torch.randn(2, 3, 4, 4)), None, tmp_path / "sum.onnx")
    with pytest.raises(BadWeights, match="does not tell its classes"):
        load(tmp_path / "sum.onnx")


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    for suffix in (".onnx", ".xml", ".pt2"):
        file = tmp_path / f"model{suffix}"
        with pytest.raises(BadWeights, match=r"no .*model"):
            load(file)
        file.write_bytes(b"nothing of the kind")
        with pytest.raises(BadWeights, match="cannot be opened"):
            load(file)


def test_a_network_without_classifier_is_not_exported(tmp_path: Path) -> None:
    net = tmp_path / "net"
    model = create_model("densenet_bc_10_4", num_classes=5, image_size=8)
    card = read_card(write_net(net, "densenet_bc_10_4", num_classes=5, image_size=8))
    assert card.classes
    text = json.loads((net / "config.json").read_text()) | {"classes": []}
    (net / "config.json").write_text(json.dumps(text))
    with pytest.raises(InvalidInput, match="no classifier"):
        export_model(net, tmp_path / "out")
    assert model.config.num_classes == 5


@pytest.mark.parametrize("size", [(33, 47), (47, 33), (5, 90), (8, 8), (7, 7), (64, 200)])
@pytest.mark.parametrize(("wanted", "resize"), [((8, 8), 8), ((12, 9), 9), ((11, 20), 11), ((24, 24), 30)])
def test_what_a_network_sees_is_what_torchvision_would_cut(
    size: tuple[int, int], wanted: tuple[int, int], resize: int, tmp_path: Path
) -> None:
    """The frame is cut by Pillow alone, so that a process without torch has the same."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as vision

    Image.effect_noise(size, 90).convert("RGB").save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png").image
    preprocessing = Preprocessing(channels=3, size=wanted, resize=resize, mean=(0.0,) * 3, std=(1.0,) * 3)
    scale = resize / min(size)
    sides = [max(1, round(side * scale)) for side in (image.height, image.width)]
    theirs = vision.resize(image, sides, interpolation=InterpolationMode.BILINEAR, antialias=True)
    expected = vision.pil_to_tensor(vision.center_crop(theirs, list(wanted)))
    assert torch.equal(pixels_of(image, preprocessing), expected)


def test_no_file_tells_of_folders_and_evaluation_finds_the_test_split_in_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of a copy elsewhere; without DATA it says what is missing."""
    secret = tmp_path / "secret-patient-folder"
    photos = write_photos(secret / "photos")
    settings = {"data.image_size": 16, "batch_size": 8}
    run = densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=secret / "run", settings=settings)
    made = export_model(run.folder, tmp_path / "out", formats=("onnx", "torch", "triton"))
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            assert b"secret-patient-folder" not in file.read_bytes(), file
    card = load(made.files["onnx"]).card
    assert card.data is not None
    assert card.data.source == "photos"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "copies")
    for data in (photos, "copies"):
        result = evaluate(made.files["onnx"], data)
        assert (result.split, result.count) == ("test", run.result.count)
        assert "not known whether" not in capsys.readouterr().err
    with pytest.raises(BadData, match=r"photos, which .*model\.onnx was trained on, is not there; name its new place"):
        evaluate(made.files["onnx"])
