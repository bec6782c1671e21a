"""A folder that timm or transformers wrote says what weights do not: it is read, and what contradicts them refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from densekit import import_model
from densekit.errors import BadWeights
from tests.weights.peers import perturb, torchvisions

pytestmark = pytest.mark.usefixtures("read_in_process")

NAMES = list("abcdefg")
CONFIG = {
    "architecture": "densenet121",
    "num_classes": 7,
    "global_pool": "avg",
    "label_names": NAMES,
    "pretrained_cfg": {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "input_size": [3, 96, 96],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "classifier": "classifier",
    },
}


def folder(at: Path, config: Any = None, **changes: Any) -> Path:
    at.mkdir()
    save_file(perturb(torchvisions()).state_dict(), at / "model.safetensors")
    (at / "config.json").write_text(json.dumps(config if config is not None else CONFIG | changes))
    return at


@pytest.mark.parametrize("named", [".", "model.safetensors"])
def test_a_folder_of_timm_is_read_with_its_config(named: str, tmp_path: Path) -> None:
    done = import_model(folder(tmp_path / "hub") / named, tmp_path / "model")
    card, pixels = done.card, done.card.preprocessing
    assert card.classes == tuple(NAMES)
    assert (pixels.mean, pixels.std, pixels.known) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), True)
    assert (pixels.size, pixels.resize) == ((96, 96), 101)  # 96 / 0.95, rounded down, as timm does
    assert any(note.startswith("interpolation: bicubic") for note in done.notes)
    assert not any(note.startswith("size:") for note in done.notes)


def test_what_is_given_goes_before_the_config(tmp_path: Path) -> None:
    path = folder(tmp_path / "hub")
    given = import_model(
        path, tmp_path / "model", mean=(0.1,) * 3, std=(1,) * 3, classes=list("gfedcba"), image_size=64
    )
    assert given.card.preprocessing.mean == (0.1,) * 3
    assert given.card.preprocessing.size == (64, 64)
    assert given.card.classes == tuple("gfedcba")


def test_transformers_say_the_task_and_the_classes(tmp_path: Path) -> None:
    config = {
        "architectures": ["TimmWrapperForImageClassification"],
        "problem_type": "multi_label_classification",
        "id2label": {str(i): name for i, name in enumerate(NAMES)},
        "pretrained_cfg": CONFIG["pretrained_cfg"],
    }
    done = import_model(folder(tmp_path / "hub", config), tmp_path / "model")
    assert done.card.task == "multi-label"
    assert "task: multi-label; config.json beside the weights says so" in done.notes
    assert done.card.classes == tuple(NAMES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 10}, "has 7 outputs, and config.json beside it num_classes: 10"),
        ({"label_names": ["a", "b"]}, "has 7 outputs, and config.json beside it names of classes: 2"),
        ({"global_pool": "max"}, "built with global_pool=max"),
        ({"model_args": {"act_layer": "gelu"}}, "built with act_layer=gelu"),
        ({"pretrained_cfg": {"mean": [0.5], "std": [0]}}, "is not as timm writes it"),
        ({"pretrained_cfg": [1]}, "is not as timm writes it"),
    ],
)
def test_a_config_of_another_network_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=words):
        import_model(folder(tmp_path / "hub", **changes), tmp_path / "model")


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "hub")
    for text in ("{", "[" * 100_000):
        (path / "config.json").write_text(text)
        with pytest.raises(BadWeights, match=r"cannot read .*config\.json"):
            import_model(path, tmp_path / "model")


def test_a_config_beside_another_file_is_not_its_own(tmp_path: Path) -> None:
    path = folder(tmp_path / "hub")
    (path / "model.safetensors").rename(path / "densenet.safetensors")
    assert import_model(path / "densenet.safetensors", tmp_path / "model").card.classes[0] == "class 0"


def test_other_folders_say_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    with pytest.raises(BadWeights, match=r"is a SavedModel of TensorFlow; .* model\.save\('weights\.keras'\)"):
        import_model(tmp_path / "saved", tmp_path / "model")
    done = import_model(folder(tmp_path / "hub"), tmp_path / "model")
    with pytest.raises(BadWeights, match="is a model folder of densekit already"):
        import_model(done.folder, tmp_path / "other")


def test_timm_writes_what_is_read(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    net = perturb(timm.create_model("densenet121", num_classes=7))
    timm.models.save_for_hf(net, tmp_path / "hub", model_config={"label_names": NAMES})
    done = import_model(tmp_path / "hub", tmp_path / "model")
    expected: Any = net.pretrained_cfg
    assert done.card.preprocessing.mean == expected["mean"]
    assert done.card.preprocessing.resize == int(224 / expected["crop_pct"])
    assert done.card.classes == tuple(NAMES)
