"""densekit import, as it is typed."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import Command
from tests.weights.peers import NAMES, Double, perturb, torchvisions


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"state_dict": perturb(torchvisions()).state_dict()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_a_checkpoint_becomes_a_model_that_predicts(densekit: Command, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    status, out, err = densekit(
        *("import", "weights.pth", "--out", "model", "--classes", "names.txt", "--image-size", 64),
        *("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"),
    )
    assert (status, err) == (0, "")
    assert "matched" in out
    assert "unmatched     0" in out
    Image.effect_noise((80, 70), 60).save(tmp_path / "picture.png")
    status, out, _ = densekit("predict", "model", "picture.png", "--json")
    assert status == 0
    assert {row["class"] for row in json.loads(out)["top"]} <= set("abcdefg")
    card = json.loads((tmp_path / "model" / "config.json").read_text())
    assert card["preprocessing"]["std"] == [0.2] * 3
    assert card["provenance"]["imported"]["file"] == "weights.pth"


def test_json_has_every_tensor(densekit: Command, weights: Path) -> None:
    status, out, err = densekit("import", weights, "--out", "model", "--json")
    assert (status, err) == (0, "")
    facts = json.loads(out)
    assert len(facts["matched"]) == len(torch.load(weights)["state_dict"])
    assert (facts["classes"], facts["task"]) == (7, "single-label")


def test_labels_that_do_not_exclude_each_other_can_be_asked_for(densekit: Command, weights: Path) -> None:
    status, out, _ = densekit("import", weights, "--out", "model", "--multi-label", "--json")
    assert status == 0
    assert json.loads(out)["task"] == "multi-label"


def test_a_kuangliu_checkpoint_is_converted(densekit: Command, tmp_path: Path) -> None:
    net = Double(NAMES["kuangliu"], blocks=(2, 3, 2, 2))
    torch.save({"net": {f"module.{key}": value for key, value in net.state_dict().items()}, "acc": 9.5}, "ckpt.pth")
    status, out, _ = densekit("import", "ckpt.pth", "--out", "model")
    assert status == 0
    assert "channels reordered" in out
    assert "left in the file: acc" in out


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["gone.pth", "--out", "x"], 3, "no file gone.pth"),
        (["weights.pth"], 2, "--out"),
        (["weights.pth", "--out", "."], 2, "not empty"),
        (["weights.pth", "--out", "x", "--model", "densnet121"], 2, "did you mean densenet121"),
        (["weights.pth", "--out", "x", "--mean", "0.5"], 2, "go together"),
        (["weights.pth", "--out", "x", "--mean", "a,b,c", "--std", "1,1,1"], 2, "--mean a,b,c is no list of numbers"),
        (["weights.pth", "--out", "x", "--model", "densenet121"], 3, "and no densenet121"),
        (["weights.pth", "--out", "x", "--classes", "gone.txt"], 2, "cannot read --classes gone.txt"),
        (["weights.pth", "--out", "x", "--key", "ema"], 2, "has no network there; it has state_dict"),
        (["weights.pth", "--out", "x", "--image-size", "0"], 2, "image-size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("weights")
def test_wrong_input_is_one_line_and_its_status(
    densekit: Command, arguments: list[str], status: int, words: str, tmp_path: Path
) -> None:
    got, out, err = densekit("import", *arguments)
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert words in err
    assert not (tmp_path / "x").exists()
