"""Training images are known by their content, whatever their folder is called: they are not measured as unseen."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import densekit
from densekit.errors import BadData, InvalidInput
from densekit.evaluation import held_out
from densekit.weights import image_hashes
from tests.conftest import write_photos

SMALL: dict[str, Any] = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
NET = "densenet_bc_10_4"


def table_of(root: Path, paths: list[Path]) -> str:
    """csv: of these files, named from `root`, with their folders as labels."""
    rows = "".join(f"{path.relative_to(root)},{path.parent.name}\n" for path in paths)
    (root / "table.csv").write_text(f"path,label\n{rows}")
    return f"csv:{root / 'table.csv'}"


def names_in(run: Path, split: str) -> list[str]:
    """The images of a split, by RUN/split.csv."""
    rows = [line.split(",") for line in (run / "split.csv").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[0] == split]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, and a run on it."""
    root = tmp_path_factory.mktemp("place")
    photos = write_photos(root / "photos", count=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        densekit.train("photos", model=NET, epochs=1, out="run", settings=SMALL)
    assert photos.is_dir()
    return root


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().err


@pytest.mark.parametrize("spell", ["photos", "photos/", "./photos", "{root}/photos", "run/../photos", "~/photos"])
def test_any_spelling_of_the_training_data_is_its_test_split(
    spell: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place))
    result = densekit.evaluate("run", spell.format(root=place))
    assert (result.data, result.split, result.count) == ("photos", "test", len(names_in(Path("run"), "test")))
    assert result.top1 == json.loads(Path("run/result.json").read_text())["top1"]


def test_so_is_a_path_object_and_a_link(place: Path, tmp_path: Path) -> None:
    expected = len(names_in(place / "run", "test"))
    (tmp_path / "link").symlink_to(place / "photos")
    for data in (place / "photos", tmp_path / "link"):
        result = densekit.evaluate(place / "run", data)
        assert (result.split, result.count) == ("test", expected)


@pytest.mark.parametrize("form", ["copy", "table", "shards"])
def test_the_same_images_elsewhere_are_divided_as_for_training(form: str, place: Path, tmp_path: Path) -> None:
    """Also by a checkpoint that was copied out of its run."""
    shutil.copytree(place / "photos", tmp_path / "copy")
    shutil.copytree(place / "run/checkpoints/last", tmp_path / "model")
    data = str(tmp_path / "copy")
    if form == "table":
        data = table_of(tmp_path, sorted((tmp_path / "copy").rglob("*.png")))
    elif form == "shards":
        from densekit.data.write_shards import shard

        shard(data, tmp_path / "shards")
        data = f"wds:{tmp_path / 'shards'}"
    for model in (place / "run", tmp_path / "model"):
        result = densekit.evaluate(model, data)
        assert (result.split, result.count) == ("test", len(names_in(place / "run", "test")))


def test_training_images_among_others_are_left_out_and_counted(
    place: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    mixed = write_photos(tmp_path / "mixed", count=4, size=50)
    for name in names_in(place / "run", "train")[:5]:
        shutil.copy(place / "photos" / name, mixed / Path(name).parent / f"again-{Path(name).name}")
    result = densekit.evaluate(place / "run", mixed)
    assert (result.split, result.count) == ("all", 8)
    assert "left out 5 of the 13 images of mixed (all)" in said()


def test_other_images_are_all_measured_and_nothing_is_said(
    place: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    result = densekit.evaluate(place / "run", write_photos(tmp_path / "new", count=4, size=50))
    assert (result.split, result.count, said()) == ("all", 8, "")


def test_a_table_of_training_images_alone_is_refused(place: Path, tmp_path: Path) -> None:
    listed = [place / "photos" / name for name in names_in(place / "run", "train")]
    data = table_of(place, listed)
    with pytest.raises(BadData, match=r"all of the \d+ images of csv:table.csv \(all\) were used for training"):
        densekit.evaluate(place / "run", data)


@pytest.mark.parametrize(("split", "words"), [("train", "used for training"), ("all", "of these 60 images were used")])
def test_training_images_are_measured_where_they_are_asked_for(
    split: str, words: str, place: Path, said: Callable[[], str]
) -> None:
    result = densekit.evaluate(place / "run", place / "photos", split=split)
    assert result.split == split
    assert words in said()


def test_another_division_of_the_training_data_leaves_training_images_out(place: Path, said: Callable[[], str]) -> None:
    result = densekit.evaluate(place / "run", settings={"data.test_fraction": 0.5})
    assert result.count == len(names_in(place / "run", "test"))
    assert "left out" in said()


def test_a_model_without_hashes_reads_its_training_data_again_or_says_that_it_cannot(
    place: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    """As those of older versions, and of the Hub."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(place / "run/checkpoints/last" / name, model)
    shutil.copytree(place / "photos", tmp_path / "copy")
    copied = densekit.evaluate(model, tmp_path / "copy")
    assert (copied.split, copied.count) == ("test", len(names_in(place / "run", "test")))
    card = json.loads((model / "config.json").read_text())
    card["data"]["source"] = "gone"
    (model / "config.json").write_text(json.dumps(card))
    densekit.evaluate(model, tmp_path / "copy")
    assert "not known whether" in said()


def test_training_data_that_take_long_to_read_are_not_read_again(
    place: Path, tmp_path: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(place / "run/checkpoints/last", model)
    (model / image_hashes.FILE).unlink()
    shutil.copytree(place / "photos", tmp_path / "copy")
    monkeypatch.setattr(held_out, "QUICKLY_READ", 1000)
    (model / "state.json").unlink()
    densekit.evaluate(model, tmp_path / "copy", split="all")
    assert "not known whether" in said()


def test_damaged_hashes_are_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run/checkpoints/last", tmp_path / "model")
    (tmp_path / "model" / image_hashes.FILE).write_bytes(b"?")
    with pytest.raises(BadData, match=r"images\.safetensors is damaged"):
        densekit.evaluate(tmp_path / "model", place / "photos")


def test_hashes_of_something_else_are_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run/checkpoints/last", tmp_path / "model")
    save_file({"test": np.zeros(3, np.float32)}, tmp_path / "model" / image_hashes.FILE)
    with pytest.raises(BadData, match=r"images\.safetensors is damaged"):
        densekit.evaluate(tmp_path / "model", place / "photos", split="all")


def test_a_state_that_is_nested_too_deeply_is_no_state_of_training(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run/checkpoints/last", tmp_path / "model")
    (tmp_path / "model" / "state.json").write_text("[" * 100_000)
    assert densekit.evaluate(tmp_path / "model", place / "photos").split == "test"


def test_data_with_a_validation_but_no_test_split_are_measured_on_it(tmp_path: Path) -> None:
    for split, size in (("train", 40), ("val", 44)):
        write_photos(tmp_path / "photos" / split, count=4, size=size)
    run = densekit.train(str(tmp_path / "photos"), model=NET, epochs=1, out=tmp_path / "run", settings=SMALL)
    assert run.evaluate().split == run.result.split == "val"


def test_an_analysis_looks_at_the_test_images_of_a_copy(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "photos", tmp_path / "copy")
    done = densekit.analyse(place / "run", tmp_path / "copy", only=["gradients"], out=tmp_path / "out")
    found = done.found
    assert (found.data, found.split, found.images) == ("copy", "test", len(names_in(place / "run", "test")))


def test_a_split_that_is_not_there_is_an_error(place: Path) -> None:
    with pytest.raises(InvalidInput, match="unknown split"):
        densekit.evaluate(place / "run", place / "photos", split="tset")
