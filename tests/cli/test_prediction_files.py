"""predict --csv and --sort-into: all that was asked for is accounted for, and nothing is lost or overwritten."""

import csv
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import densekit as package
from densekit import Run, train
from densekit.csv_cells import path_of, text_of
from densekit.data.image_files import ImageFile
from densekit.errors import BadData, BadImage
from densekit.inference.classifier import Prediction
from densekit.inference.sort_into_folders import Sorter
from tests.conftest import Command, write_photos
from tests.narrow import expect_type

CLASSES = ("Unsure", "a: b?", "dog")
ODD = ('a,"b"\nc.png', "=1+1.png", os.fsdecode(b"\xb9.png"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("three")
    photos = write_photos(root / "photos", classes=CLASSES, count=6)
    settings = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
    return train(photos, model="densenet_bc_10_4", epochs=1, out=root / "run", settings=settings).folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures, two of one name, three of odd names, and one that is none."""
    random = np.random.default_rng(0)
    for name in ("x/1.png", "y/1.png", "x/2.png", *(f"x/{name}" for name in ODD)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    (tmp_path / "in" / "y" / "bad.png").write_text("no")
    return tmp_path / "in"


def rows_in(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, strict=True))


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_row_an_image_says_what_json_says(densekit: Command, model: Path, pictures: Path, tmp_path: Path) -> None:
    status, out, _ = densekit("predict", model, pictures, "gone.png", "--csv", "p.csv", "--json", "--top", 3)
    told, rows = [json.loads(line) for line in out.splitlines()], rows_in(tmp_path / "p.csv")
    assert status == 3
    assert len(rows) == len(told) == 8
    for row, line in zip(rows, told, strict=True):
        assert Path(path_of(row["path"])) == Path(line["path"])
        if "error" in line:
            assert (row["error_code"], text_of(row["error"])) == (line["error"]["code"], line["error"]["message"])
            assert {row["predicted"], row["probability"], row["probability_dog"]} == {""}
        else:
            assert row["predicted"] == line["top"][0]["class"]
            assert {each["class"]: each["probability"] for each in line["top"]} == {
                name: float(np.float32(row[f"probability_{name}"])) for name in CLASSES
            }
            assert row["error_code"] == row["error"] == ""
    assert {row["error_code"] for row in rows} == {"", "missing", "not_an_image"}


def test_files_take_the_place_of_lines_and_a_summary_is_printed(densekit: Command, model: Path, pictures: Path) -> None:
    status, out, err = densekit("predict", model, pictures / "x", "--csv", "p.csv")
    assert (status, out, err) == (0, "p.csv: 5 images\n", "")


def test_an_earlier_table_is_replaced_and_no_other_file(
    densekit: Command, model: Path, pictures: Path, tmp_path: Path
) -> None:
    for count, place in ((2, pictures / "y"), (5, pictures / "x")):
        densekit("predict", model, place, "--csv", "p.csv")
        assert len(rows_in(tmp_path / "p.csv")) == count
    before = (pictures / "x" / "1.png").read_bytes()
    for file in (pictures / "x" / "1.png", "/dev/null", tmp_path / "none" / "p.csv"):
        status, out, err = densekit("predict", model, pictures / "x", "--csv", file)
        assert (status, out, err.count("\n")) == (2, "", 1)
    assert (pictures / "x" / "1.png").read_bytes() == before
    assert not Path("/dev/null").is_file()


def test_a_run_that_ends_early_leaves_the_old_table(
    densekit: Command, model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    densekit("predict", model, pictures / "x", "--csv", "p.csv")
    before = (tmp_path / "p.csv").read_bytes()

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sorter, "place", stopped)
    status, _, _ = densekit("predict", model, pictures, "--csv", "p.csv", "--sort-into", "s")
    assert status == 130
    assert (tmp_path / "p.csv").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["in", "p.csv"]


def test_each_picture_gets_into_one_folder_and_keeps_its_bytes(
    densekit: Command, model: Path, pictures: Path, tmp_path: Path
) -> None:
    status, out, _ = densekit("predict", model, pictures, "gone.png", "--csv", "p.csv", "--sort-into", "s")
    assert status == 3
    assert contents(tmp_path / "s") == contents(pictures)
    folders = {"Unsure": "Unsure", "a: b?": "a_ b_", "dog": "dog"}
    for row in rows_in(tmp_path / "p.csv")[:-1]:
        source = tmp_path / path_of(row["path"])
        folder = tmp_path / "s" / folders.get(row["predicted"], "unreadable")
        copies = [path for path in folder.iterdir() if path.read_bytes() == source.read_bytes()]
        assert len(copies) == 1
        assert copies[0].name in (source.name, "1-2.png")
        assert not copies[0].samefile(source)  # a program that edits the copy leaves the original alone
        assert copies[0].stat().st_mtime_ns == source.stat().st_mtime_ns
    assert "s: 8 images, 2 could not be read" in out
    assert "not copied, as they cannot be opened: 1" in out


def test_sorting_again_changes_nothing(densekit: Command, model: Path, pictures: Path, tmp_path: Path) -> None:
    """Also where the folder is inside what is sorted."""
    densekit("predict", model, pictures, "--sort-into", pictures / "sorted")
    before = sorted((pictures / "sorted").rglob("*"))
    status, out, err = densekit("predict", model, pictures, "--sort-into", pictures / "sorted")
    assert status == 3
    assert "7 images, 1 could not be read" in out
    assert "left out 7 images in the folders of" in err
    assert sorted((pictures / "sorted").rglob("*")) == before


def test_the_unsure_have_a_folder_that_is_no_class(
    densekit: Command, model: Path, pictures: Path, tmp_path: Path
) -> None:
    """Unsure is a class of this model, and would be the same folder on a Mac."""
    densekit("predict", model, pictures / "x", "--sort-into", "s", "--min-probability", 1)
    assert os.listdir(tmp_path / "s") == ["unsure-2"]
    assert len(os.listdir(tmp_path / "s" / "unsure-2")) == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--min-probability", 0.5), "is for --sort-into"),
        (("--sort-into", "s", "--min-probability", 2), "give a number from 0 to 1"),
        (("--sort-into", "in/x/1.png"), "is a file"),
        (("--set", "data.limit=3"), "unknown setting of predict"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    densekit: Command, model: Path, pictures: Path, words: tuple[Any, ...], says: str
) -> None:
    status, out, err = densekit("predict", model, pictures, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err


def prediction(*scores: float, thresholds: tuple[float, ...] = ()) -> Prediction:
    return Prediction(CLASSES, np.array(scores, np.float32), thresholds=thresholds)


def test_several_labels_go_to_every_class_that_is_present(model: Path, tmp_path: Path) -> None:
    sorter = Sorter(tmp_path / "s", package.load(model), 0.4)
    halves = (0.3, 0.3, 0.3)
    assert sorter.folders_of(prediction(0.9, 0.1, 0.5, thresholds=halves)) == ("Unsure", "dog")
    assert sorter.folders_of(prediction(0.35, 0.1, 0.2, thresholds=halves)) == ("unsure-2",)
    assert sorter.folders_of(prediction(0.2, 0.1, 0.2, thresholds=halves)) == ("none",)
    assert sorter.folders_of(BadImage("corrupt", "x")) == ("unreadable",)


def sort_names_that_collide(model: Path, tmp_path: Path) -> None:
    """Twice into a folder that has a picture already; none of the names may be taken from another."""
    (tmp_path / "s" / "dog").mkdir(parents=True)
    (tmp_path / "s" / "dog" / "a.png").write_bytes(b"old")
    for i, name in enumerate(("p/a.png", "q/a.png", "p/a-2.png", "r/a.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"same" if i < 2 else b"%d" % i)
    for _ in range(2):
        sorter = Sorter(tmp_path / "s", package.load(model))
        for name in ("p/a.png", "q/a.png", "p/a-2.png", "r/a.png"):
            sorter.place(ImageFile(str(tmp_path / name), str(tmp_path / name)), prediction(0, 0, 1))
        assert contents(tmp_path / "s") == sorted([b"old", b"same", b"same", b"2", b"3"])
        assert sorter.counts == {"dog": 4}


def test_no_picture_takes_the_name_of_another(model: Path, tmp_path: Path) -> None:
    """Not one that was there, not one of this time, and not a name that only looks numbered."""
    sort_names_that_collide(model, tmp_path)


def test_file_systems_without_hard_links_are_sorted_into_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def unsupported(source: object, *_: object, **__: object) -> None:
        tried.append(source)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    sort_names_that_collide(model, tmp_path)
    assert tried


def test_a_table_of_several_labels_says_what_is_present(
    densekit: Command, xray_run: Run, xrays: Path, tmp_path: Path
) -> None:
    """Its images are found as the table of the training names them, without a setting."""
    densekit("predict", xray_run.folder, f"csv:{xrays}", "--csv", "p.csv", "--sort-into", "s")
    rows = rows_in(tmp_path / "p.csv")
    assert len(rows) == len(rows_in(xrays))
    result: Any = xray_run.result
    for of_class in result.per_class:
        name = of_class["class"]
        for row in rows:
            reached = float(np.float32(row[f"probability_{name}"])) >= of_class["threshold"]
            assert row[f"predicted_{name}"] == str(int(reached))
        there = sum(row[f"predicted_{name}"] == "1" for row in rows)
        assert len(list((tmp_path / "s").glob(f"{name}/*"))) == there > 0


def test_a_table_without_the_column_of_the_training_is_read_by_usual_names(
    densekit: Command, pictures: Path, tmp_path: Path
) -> None:
    """In both ways to predict; a column that is asked for must be there."""
    photos = write_photos(tmp_path / "photos", count=6)
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    (photos / "t.csv").write_text("\n".join(["scan,label", *rows]))
    settings = {"data.image_size": 16, "batch_size": 8, "plan": "concat", "data.path_column": "scan"}
    run = train(f"csv:{photos}/t.csv", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    (tmp_path / "t.csv").write_text("path,age\nin/x/1.png,3\nin/y/1.png,4\n")
    (tmp_path / "both.csv").write_text("path,scan\ngone.png,in/x/1.png\ngone.png,in/y/1.png\n")
    for table in ("t.csv", "both.csv"):
        assert densekit("predict", run.folder, f"csv:{table}", "--csv", "p.csv")[0] == 0
        assert [row["path"] for row in rows_in(tmp_path / "p.csv")] == ["in/x/1.png", "in/y/1.png"]
        found = package.load(run.folder).predict_files(f"csv:{tmp_path}/{table}")
        assert [path for path, _ in found] == [str(pictures / "x" / "1.png"), str(pictures / "y" / "1.png")]
    status, _, err = densekit("predict", run.folder, "csv:t.csv", "--set", "data.path_column=scan")
    assert (status, "unknown column of t.csv 'scan'" in err) == (2, True)


def test_tables_and_shards_are_read_where_they_are(
    densekit: Command, model: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("picture,age\nin/x/1.png,3\nin/y/1.png,4\n")
    status, _, err = densekit("predict", model, "csv:t.csv")
    assert status == 2
    assert "which column of t.csv has the images" in err
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(pictures / "x" / "1.png", "deep/1.png")
    words = ("csv:t.csv", "wds:s.tar", "--set", "data.path_column=picture")
    status, _, _ = densekit("predict", model, *words, "--csv", "p.csv", "--sort-into", "s")
    rows = rows_in(tmp_path / "p.csv")
    assert status == 0
    assert [row["path"] for row in rows] == ["in/x/1.png", "in/y/1.png", "s.tar/deep/1.png"]
    assert rows[0]["probability"] == rows[2]["probability"]
    files = [(pictures / name).read_bytes() for name in ("x/1.png", "y/1.png", "x/1.png")]
    assert contents(tmp_path / "s") == sorted(files)


def test_folders_and_globs_are_predicted_from_python(model: Path, pictures: Path) -> None:
    classifier = package.load(model)
    found = dict(classifier.predict_files(pictures))
    assert set(map(Path, found)) == {path for path in pictures.rglob("*") if path.is_file()}
    assert [path for path, outcome in found.items() if isinstance(outcome, BadImage)] == [str(pictures / "y/bad.png")]
    for path, outcome in classifier.predict_files([f"{pictures}/*/1.png", pictures / "x" / "2.png"]):
        assert expect_type(outcome, Prediction).top(1) == expect_type(found[path], Prediction).top(1)
    (pictures / "x" / "a.heic").write_bytes(b"x")
    with pytest.warns(UserWarning, match="1 image is not used: 1 .heic") as told:
        classifier.predict_files(pictures)
    assert told[0].filename == __file__
    with pytest.raises(BadData, match="nothing matches"):
        classifier.predict_files(f"{pictures}/*.gif")
