"""Names do not prove how training images were normalised, and what is assumed is said."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from densekit import import_model, load
from tests.weights.conftest import saved
from tests.weights.peers import NAMES, Double, perturb, torchvisions

pytestmark = pytest.mark.usefixtures("read_in_process")


@pytest.mark.parametrize("names", ["andreasveit", "bamos", "gpleiss", "kuangliu", "weiaicunzai"])
def test_names_that_many_repositories_share_prove_no_statistics(names: str, tmp_path: Path) -> None:
    blocks = (2, 3, 2, 2) if names in ("kuangliu", "weiaicunzai") else (2, 3, 2)
    done = import_model(saved(Double(NAMES[names], blocks=blocks).state_dict(), tmp_path), tmp_path / "model")
    assert not done.card.preprocessing.known
    (note,) = (note for note in done.notes if note.startswith("images: "))
    assert "the names suggest but do not prove; also in use with these names: " in note
    assert note.endswith("--mean, --std")
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    notices = load(done.folder, device="cpu").predict(str(tmp_path / "black.png")).notices
    assert any("--mean and --std" in notice for notice in notices)


@pytest.mark.parametrize("classes", [7, 1000])
def test_torchvisions_names_prove_no_statistics(classes: int, tmp_path: Path) -> None:
    """Networks converted from other frameworks have them too, and others' pixels."""
    done = import_model(saved(perturb(torchvisions(classes=classes)).state_dict(), tmp_path), tmp_path / "model")
    assert done.card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert not done.card.preprocessing.known


def test_given_statistics_and_those_of_an_xray_network_are_known(tmp_path: Path) -> None:
    state = perturb(torchvisions(channels=1, classes=18)).state_dict() | {"op_threshs": torch.rand(18)}
    xray = import_model(saved(state, tmp_path), tmp_path / "xray").card.preprocessing
    assert xray.known
    assert xray.resize == xray.size[0]  # torchxrayvision scales the middle square as a whole, and cuts nothing off it
    state = perturb(torchvisions()).state_dict()
    given = import_model(saved(state, tmp_path), tmp_path / "given", mean=(0.1,) * 3, std=(1,) * 3)
    assert given.card.preprocessing.known


def test_a_size_that_no_file_tells_is_said_to_be_assumed(tmp_path: Path) -> None:
    path = saved(perturb(torchvisions()).state_dict(), tmp_path)
    assert (
        "size: 224x224 pixels are assumed; if it was another: --image-size" in import_model(path, tmp_path / "a").notes
    )
    told = import_model(path, tmp_path / "b", image_size=96)
    assert not any(note.startswith("size: ") for note in told.notes)
