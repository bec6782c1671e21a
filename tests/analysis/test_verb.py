"""`densekit analyse`: page, figures and numbers, of every kind of model; one line for what cannot be looked at."""

import json
import re
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from densekit import analyse
from densekit.config import Preprocessing
from densekit.models import build, config_for
from densekit.weights import ModelCard, load_model, model_folder, save_model
from tests.conftest import Command
from tests.html_pages import CHROMIUM, looked_at, text_of

pytest.importorskip("captum")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A densenet121 that does not say what it was trained on, as imported ones do not."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "densenet121"
    config = config_for("densenet121").model_copy(update={"num_classes": 3, "image_size": (64, 64)})
    preprocessing = Preprocessing(channels=3, size=(64, 64), resize=64, mean=(0.5,) * 3, std=(0.25,) * 3)
    card = ModelCard(model=config, classes=("class0", "class1", "class2"), preprocessing=preprocessing)
    save_model(folder, build(config).state_dict(), card)
    return folder


@pytest.fixture(scope="module")
def page(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analysis") / "found"
    return analyse(tiny_run, images=20, only=["ablation", "maps"], out=out).report


def test_a_run_is_looked_into_from_all_sides(densekit: Command, tiny_run: Path, tmp_path: Path) -> None:
    status, out, err = densekit("analyse", tiny_run, "--images", 60, "--twin", tiny_run, "--out", "found", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert [len(block["weight"]) for block in found["blocks"]] == [2, 2, 2]
    assert set(found["observations"]) == {"weight", "gamma", "activation", "ablation"}
    for seen in found["observations"]["weight"]:
        assert len(seen["values"]) == 2
        assert seen["verdict"] in ("held", "did not hold", "unclear")
    assert {flow["state"] for flow in found["gradients"]} == {"untrained", "trained"}
    assert found["images"] == 60
    names = {path.name for path in (tmp_path / "found" / "figures").iterdir()}
    kinds = ("reuse", "reuse_forms", "behind_blocks", "stochastic_depth", "removal", "gradients", "probes")
    assert names == {f"{kind}.{suffix}" for kind in (*kinds, "activation_maps") for suffix in ("svg", "png")}
    page = tmp_path / "found" / "report.html"
    text = text_of(page)
    for seen in found["observations"]["weight"]:
        assert seen["says"] in text
    assert "Implicit deep supervision: linear probes" in text
    assert not re.search(r'(?:src|href)="(?!data:)', page.read_text())
    assert page.stat().st_size < 3_000_000


def test_weights_alone_need_no_images(densekit: Command, imported: Path, tmp_path: Path) -> None:
    status, out, err = densekit("analyse", imported, "--out", "found")
    assert status == 0, err
    assert "report: found/report.html" in out
    found = json.loads((tmp_path / "found" / "analysis.json").read_text())
    assert [len(block["weight"]) for block in found["blocks"]] == [7, 13, 25, 17]
    assert found["edges"] is found["probes"] is found["maps"] is None
    assert "its weights alone" in text_of(tmp_path / "found" / "report.html")


@pytest.mark.slow
def test_photographs_nets_are_looked_into_with_images(densekit: Command, imported: Path) -> None:
    status, out, err = densekit(
        "analyse", imported, "synthetic:64x64x3:3:30", "--images", 6, "--json", "--only", "maps", "--only", "gradients"
    )
    assert status == 0, err
    found = json.loads(out)
    assert found["matched"] == "resnet101"
    assert found["maps"]["items"]
    assert found["edges"] is None


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_loads_nothing(page: Path, scheme: Literal["light", "dark"]) -> None:
    look = looked_at(page, scheme)
    assert look.complaints == []
    assert {url.split(":", 1)[0] for url in look.requests} <= {"file", "data"}
    assert look.overflow <= 0
    assert min(look.widths) > 0


def test_python_has_it_too(tiny_run: Path, tmp_path: Path) -> None:
    done = analyse(tiny_run, only=["weights"], out=tmp_path / "found")
    assert done.report.is_file()
    assert done.found.edges is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["MODEL", "--only", "wieghts"], 2, "did you mean weights"),
        (["MODEL", "fashon-mnist"], 2, "did you mean fashion-mnist"),
        (["MODEL", "synthetic:8x8x1:3:60"], 3, "classes"),
        (["MODEL", "--split", "tset"], 2, "did you mean test"),
        (["MODEL", "--twin", "OTHER", "--only", "weights"], 2, "not the same network"),
        (["no-model"], 2, "unknown model"),
        (["MODEL", "--out", "taken"], 2, "not empty"),
        (["RESNET"], 2, "is not a DenseNet"),
        (["IMPORTED", "--only", "maps"], 2, "name DATA"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_looked_at_is_one_line(
    densekit: Command,
    tiny_run: Path,
    plain_run: Path,
    imported: Path,
    tmp_path: Path,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    _, card = load_model(model_folder(tiny_run))
    config = config_for("resnet_8").model_copy(update={"in_channels": 1, "image_size": (8, 8)})
    save_model(tmp_path / "resnet", build(config).state_dict(), card.model_copy(update={"model": config}))
    names = {"MODEL": tiny_run, "OTHER": plain_run, "RESNET": tmp_path / "resnet", "IMPORTED": imported}
    got, out, err = densekit("analyse", *(names.get(argument, argument) for argument in arguments))
    assert (got, out) == (status, "")
    assert words in err
    assert err.count("\n") == 1


def test_without_captum_it_says_what_to_install(
    densekit: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    status, _, err = densekit("analyse", tiny_run)
    assert status == 2
    assert "pip install 'densekit[analysis]'" in err
