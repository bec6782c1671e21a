"""The task of imported weights is given, read, deduced and printed, or refused: never assumed in silence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from densekit import import_model, load
from densekit.api import export_model
from densekit.errors import BadWeights, InvalidInput
from densekit.inference.metadata import Metadata
from tests.weights.conftest import saved
from tests.weights.keras_files import config_of, keras_layers, write_h5
from tests.weights.peers import NAMES, Double, perturb, torchvisions

pytestmark = pytest.mark.usefixtures("read_in_process")

State = dict[str, Tensor]


def outputs(count: int) -> State:
    return perturb(torchvisions(classes=count)).state_dict()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.effect_noise((80, 80), 60).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_one_output_is_the_probability_of_one_class(tmp_path: Path, picture: Path) -> None:
    """A softmax over it would be 1 for every image."""
    state = outputs(1)
    state["classifier.bias"].fill_(-5.0)
    done = import_model(saved(state, tmp_path), tmp_path / "model", image_size=64)
    assert any(note.startswith("task: multi-label; one output") for note in done.notes)
    classifier = load(done.folder, device="cpu")
    with torch.no_grad():
        logit = classifier.model(classifier.inputs(classifier.pixels([classifier.decode(str(picture)).image])))
    (row,) = classifier.predict(str(picture)).top()
    assert row["probability"] == pytest.approx(logit.sigmoid().item())
    assert row["present"] is False


def test_one_output_stays_a_probability_in_an_exported_file(tmp_path: Path, picture: Path) -> None:
    pytest.importorskip("onnxruntime")
    from densekit.export.runtime import OnnxClassifier

    done = import_model(saved(outputs(1), tmp_path), tmp_path / "model", image_size=64)
    export_model(done.folder, tmp_path / "exported", formats=["onnx"])
    (row,) = OnnxClassifier(tmp_path / "exported" / "model.onnx").predict(str(picture)).top()
    assert row["probability"] == pytest.approx(load(done.folder).predict(str(picture)).probabilities[0], abs=1e-4)
    assert row["probability"] != 1.0


def test_a_softmax_of_one_output_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--single-label: .* has one output, and a softmax of one is 1 for every"):
        import_model(saved(outputs(1), tmp_path), tmp_path / "model", single_label=True)


def test_a_model_folder_with_a_softmax_of_one_output_is_refused(tmp_path: Path) -> None:
    """Such as earlier releases imported."""
    folder = import_model(saved(outputs(1), tmp_path), tmp_path / "model").folder
    card = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**card, "task": "single-label"}))
    with pytest.raises(
        BadWeights, match='a softmax, which is 1 for every image; import its weights again, or set "task"'
    ):
        load(folder)
    strings = Metadata(card | {"task": "single-label"}, inside=True).strings()
    with pytest.raises(BadWeights, match=r"model.onnx has one class and a softmax"):
        Metadata.read(strings, "model.onnx")


def test_a_keras_network_says_what_it_ends_in(tmp_path: Path) -> None:
    layers = keras_layers(outputs(7))
    config = config_of(layers)
    path = write_h5(tmp_path / "a.h5", layers, config=config)
    done = import_model(path, tmp_path / "softmax")
    assert (done.card.task, done.card.task_known) == ("single-label", True)
    assert "task: single-label; the file says that the network ends in a softmax" in done.notes
    with pytest.raises(InvalidInput, match=r"--multi-label: .* says that the network ends in a softmax"):
        import_model(path, tmp_path / "other", multi_label=True)
    config["config"]["layers"][-1]["config"]["activation"] = "linear"
    done = import_model(write_h5(tmp_path / "b.h5", layers, config=config), tmp_path / "linear")
    assert (done.card.task, done.card.task_known) == ("single-label", False)


def test_a_keras_softmax_of_one_output_is_refused(tmp_path: Path) -> None:
    layers = keras_layers(outputs(1))
    path = write_h5(tmp_path / "a.h5", layers, config=config_of(layers))
    for multi_label in (False, True):
        with pytest.raises(BadWeights, match="ends in a softmax of one output, which is 1 for every image"):
            import_model(path, tmp_path / "model", multi_label=multi_label)


def test_several_outputs_without_a_sign_are_said_to_be_assumed(tmp_path: Path, picture: Path) -> None:
    """At the import, in the model's folder, and with every prediction."""
    path = saved(outputs(7), tmp_path)
    done = import_model(path, tmp_path / "model", image_size=64)
    assert any(note.startswith("task: single-label; assumed") and "--multi-label" in note for note in done.notes)
    assert any("--single-label or --multi-label" in each for each in load(done.folder).predict(str(picture)).notices)
    for task in ("single_label", "multi_label"):
        given: dict[str, Any] = {task: True}
        told = import_model(path, tmp_path / task, image_size=64, **given)
        assert f"task: {told.card.task}; as given" in told.notes
        assert told.card.task_known
        assert not any("--multi-label" in each for each in load(told.folder).predict(str(picture)).notices)
    with pytest.raises(InvalidInput, match="exclude each other"):
        import_model(path, tmp_path / "both", multi_label=True, single_label=True)


def test_what_follows_a_classifier_in_a_sequential_must_be_said(tmp_path: Path) -> None:
    """Linear and Sigmoid, as common networks for chest X-rays have them: the second has no weights."""
    net = torchvisions(classes=14)
    net.classifier = nn.Sequential(net.get_submodule("classifier"), nn.Sigmoid())
    path = saved(perturb(net).state_dict(), tmp_path)
    with pytest.raises(
        InvalidInput, match=r"classifier\.0\.weight, is the first part .* --single-label; .* --multi-label"
    ):
        import_model(path, tmp_path / "model")
    assert import_model(path, tmp_path / "model", multi_label=True).card.task == "multi-label"


def test_the_weights_of_a_loss_with_sigmoids_tell_the_task(tmp_path: Path) -> None:
    path = saved(outputs(7) | {"loss.pos_weight": torch.ones(7)}, tmp_path)
    done = import_model(path, tmp_path / "model")
    assert done.card.task == "multi-label"
    assert any(note.startswith("task: multi-label; pos_weight") for note in done.notes)


def test_the_number_of_classes_of_a_known_data_set_tells_the_task(tmp_path: Path) -> None:
    for name, state in (
        ("imagenet", outputs(1000)),
        ("cifar", Double(NAMES["kuangliu"], blocks=(2, 3, 2, 2)).state_dict()),
    ):
        done = import_model(saved(state, tmp_path), tmp_path / name)
        assert (done.card.task, done.card.task_known) == ("single-label", True)


def test_a_backbone_has_no_task(tmp_path: Path) -> None:
    done = import_model(saved(outputs(1), tmp_path), tmp_path / "model", head=False)
    assert not any(note.startswith("task") for note in done.notes)
