"""csv:FILE: what its columns mean, what is refused, and that no patient is in two splits."""

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from densekit.config import DataConfig
from densekit.data import DataSet, load
from densekit.data.sets import FileImages, check_learnable, groups_of, label_names
from densekit.data.split import divide
from densekit.errors import BadData, BadImage, InvalidInput, UnknownName
from tests.data.xrays import FINDINGS, write_xrays
from tests.narrow import expect_type, not_none

NAN = float("nan")


def write(folder: Path, text: str, *, pictures: int = 4) -> Path:
    """A table, and pictures 0.png, 1.png, ... beside it, no two alike."""
    folder.mkdir(exist_ok=True)
    for i in range(pictures):
        Image.new("L", (8, 8), 10 * i).save(folder / f"{i}.png")
    (folder / "table.csv").write_text(text)
    return folder / "table.csv"


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig.model_validate({"source": f"csv:{path}"} | settings)


def read(path: Path, **settings: object) -> DataSet:
    return load(config(path, **settings), Path())


def labels_of(path: Path, **settings: object) -> list[list[float]]:
    return read(path, **settings).splits["train"].labels.tolist()


def same(left: list[list[float]], right: list[list[float]]) -> bool:
    return np.array_equal(np.array(left), np.array(right), equal_nan=True)


def test_one_column_holds_class_names(tmp_path: Path) -> None:
    data = read(write(tmp_path, "image,label\n0.png,pear\n1.png,apple\n2.png,pear\n"))
    assert data.classes == ("apple", "pear")
    assert data.splits["train"].labels.tolist() == [1, 0, 1]
    assert data.splits["train"].names() == ["0.png", "1.png", "2.png"]
    assert not data.multi_label


def test_several_columns_hold_ones_zeros_and_what_is_not_known(tmp_path: Path) -> None:
    path = write(tmp_path, "path,a,b\n0.png,1,0\n1.png,-1,1.0\n2.png,,-1.0\n3.png,0.0,nan\n")
    expected: list[list[float]] = [[1, 0], [NAN, 1], [NAN, NAN], [0, NAN]]
    assert same(labels_of(path, label_columns=["a", "b"]), expected)
    assert same(labels_of(path, label_columns="b, a"), [row[::-1] for row in expected])
    # CheXpert: what a report does not mention is taken to be absent, what it is unsure of is not.
    assert same(labels_of(path, label_columns="a,b", blank_labels="absent"), [[1, 0], [NAN, 1], [0, NAN], [0, 0]])


def test_one_column_may_hold_several_classes(tmp_path: Path) -> None:
    """ChestX-ray14's form."""
    rows = "0.png,Mass|Hernia\n1.png,No Finding\n2.png,Mass\n3.png,\n"
    path = write(tmp_path, f"Image Index,Finding Labels\n{rows}")
    data = read(path, label_separator="|", no_label="No Finding")
    assert data.classes == ("Hernia", "Mass")
    labels = data.splits["train"].labels
    assert same(labels.tolist(), [[1, 1], [0, 0], [0, 1], [NAN, NAN]])
    assert label_names(labels, data.classes) == ["Hernia|Mass", "", "Mass", ""]
    assert read(path, label_separator="|").classes == ("Hernia", "Mass", "No Finding")


def test_paths_start_from_the_table_or_from_where_the_settings_say(tmp_path: Path) -> None:
    path = write(tmp_path / "pictures", "file,class\n0.png,a\n1.png,b\n")
    moved = tmp_path / "moved.csv"
    path.rename(moved)
    with pytest.raises(BadData, match=r"0\.png does not exist"):
        read(moved)
    data = read(moved, image_root=str(tmp_path / "pictures"))
    assert expect_type(data.splits["train"], FileImages).paths[0] == tmp_path / "pictures" / "0.png"
    moved.write_text(f"file,class\n{tmp_path}/pictures/0.png,a\n{tmp_path}/pictures/1.png,b\n")
    assert read(moved, image_root=str(tmp_path / "elsewhere")).splits["train"].names()[0].endswith("/pictures/0.png")


def test_semicolons_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    """What a spreadsheet writes where the comma is in the numbers."""
    assert read(write(tmp_path, "\ufeffpath;label\n0.png;a,1\n1.png;b\n")).classes == ("a,1", "b")


@pytest.mark.parametrize(
    ("text", "settings", "error", "words"),
    [
        ("path,label\n", {}, BadData, "has no rows"),
        ("path,label\n0.png,a\n1.png\n", {}, BadData, "line 3 of .* has 1 cells, its header 2"),
        ("path,label\n0.png,a\n1.png,a\n", {}, BadData, "is a in every row"),
        ("path,label\n0.png,a\n1.png,\n", {}, BadData, "line 3 of .* has no label"),
        ("path,label\n0.png,a\n0.png,b\n", {}, BadData, r"0\.png stands in lines 2 and 3"),
        ("path,label\n0.png,a\n./0.png,b\n", {}, BadData, r"\./0\.png stands in lines 2 and 3"),
        ("path,label,label\n0.png,a,b\n1.png,b,a\n", {}, BadData, "has two columns label"),
        ("path,label\n0.png,a\nno.png,b\n", {}, BadData, r"no\.png does not exist.*data\.max_bad"),
        ("path,a,b\n0.png,1,0\n", {}, InvalidInput, r"which column .* path, a, b; .*data\.label_columns=NAME"),
        ("path\n0.png\n", {}, InvalidInput, r"which column .* has the labels\? It has path; "),
        ("picture,label\n0.png,a\n1.png,b\n", {}, InvalidInput, r"data\.path_column=NAME"),
        ("path,label\n0.png,a\n1.png,b\n", {"label_columns": ["lable"]}, UnknownName, "did you mean label"),
        ("path,a,b\n0.png,1,0\n", {"label_columns": "a,a"}, ValueError, "a column is named twice"),
        ("path,label\n0.png,-\n1.png,\n", {"label_separator": "|", "no_label": "-"}, BadData, "names no class"),
        ("path,a,b\n0.png,1,0\n1.png,2,1\n", {"label_columns": "a,b"}, BadData, "line 3 .*: a is '2'"),
        ("path,a,b\n0.png,1,0\n1.png,yes,1\n", {"label_columns": "a,b"}, BadData, "a is 'yes'"),
        ("path,label,split\n0.png,a,train\n1.png,b,holdout\n", {}, BadData, "split is 'holdout'; it is train, val"),
        ("path,label,patient\n0.png,a,7\n1.png,b,\n", {}, BadData, "line 3 of .* has no patient"),
        (
            "path,label,patient,split\n0.png,a,7,train\n1.png,b,8,train\n2.png,b,7,test\n",
            {},
            BadData,
            "patient 7 of .* is in train and in test",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, text: str, settings: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        read(write(tmp_path, text), **settings)
    assert error is ValueError or "\n" not in str(caught.value)


def test_a_class_that_nothing_can_be_learned_of_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "path,a,b,c\n0.png,1,0,1\n1.png,0,-1,1\n2.png,1,0,\n")
    with pytest.raises(BadData, match=r"no training image of .* is b,"):
        check_learnable(read(path, label_columns="a,b"))
    with pytest.raises(BadData, match=r"no training image of .* is not c,"):
        check_learnable(read(path, label_columns="a,c"))


def test_bad_pictures_are_skipped_within_the_budget(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label\n0.png,a\n1.png,b\n2.png,b\n")
    (tmp_path / "1.png").write_text("no picture")
    data = read(path, max_bad=1)
    assert data.splits["train"].names() == ["0.png", "2.png"]
    assert data.splits["train"].labels.tolist() == [0, 1]
    assert len(data.skipped.files) == 1


def test_of_very_many_pictures_those_that_are_gone_are_bad_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their headers are not read, as that would take minutes."""
    monkeypatch.setattr("densekit.data.sources.table.CHECKED_FILES", 3)
    path = write(tmp_path, "image,label\n0.png,a\n1.png,b\n2.png,a\ngone.png,b\n")
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(BadData, match=r"an unreadable image: .*gone\.png does not exist.*data\.max_bad"):
        read(path)
    data = read(path, max_bad=1)
    assert {bad.name: error.code for bad, error in data.skipped.files.items()} == {"gone.png": "missing"}
    images = data.splits["train"]
    assert images.names() == ["0.png", "1.png", "2.png"]
    images.fingerprint()
    (tmp_path / "1.png").unlink()  # while a run is on
    assert isinstance(images, FileImages)
    for look in (images.fingerprint, replace(images).content_hashes):  # which a set keeps once it has read them
        with pytest.raises(BadImage, match=r"1\.png cannot be read"):
            look()


def test_a_column_may_say_the_split(tmp_path: Path) -> None:
    path = write(tmp_path, "path,label,split\n0.png,a,Train\n1.png,b,train\n2.png,a,valid\n3.png,b,test\n")
    splits = divide(read(path), config(path)).splits
    assert {name: images.names() for name, images in splits.items()} == {
        "train": ["0.png", "1.png"],
        "val": ["2.png"],
        "test": ["3.png"],
    }


def test_the_columns_that_are_used_are_named(tmp_path: Path) -> None:
    """So that one that was found by its name is no surprise."""
    path = write(tmp_path, "Image Index,Patient ID,a,b\n0.png,1,1,0\n1.png,2,0,1\n")
    assert read(path, label_columns="a,b").columns == "images Image Index; labels a, b; groups Patient ID"


def patients_of(path: Path, **settings: object) -> dict[str, set[str]]:
    """Of each split."""
    splits = divide(read(path, label_columns=FINDINGS, **settings), config(path, label_columns=FINDINGS, **settings))
    return {name: set(not_none(groups_of(images))) for name, images in splits.splits.items()}


def test_the_only_column_left_has_the_labels(tmp_path: Path) -> None:
    text = "image,malignant,split,patient\n0.png,1,train,a\n1.png,0,train,b\n"
    assert read(write(tmp_path, text)).columns == "images image; labels malignant; groups patient; splits split"


@pytest.mark.parametrize("settings", [{}, {"val_count": 17}, {"val_fraction": 0.3, "test_fraction": 0.3}])
def test_no_patient_is_in_two_splits_and_none_is_lost(tmp_path: Path, settings: dict[str, object]) -> None:
    patients = patients_of(write_xrays(tmp_path, size=8), **settings)
    assert set(patients) == {"train", "val", "test"}
    assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 60


def test_without_groups_the_same_patients_would_be_divided(tmp_path: Path) -> None:
    """So the test above has something to find."""
    path = write_xrays(tmp_path, size=8)
    path.write_text(path.read_text().replace("Patient ID", "Number"))
    splits = divide(read(path, label_columns=FINDINGS), config(path)).splits
    patients = [{name.split("_")[0] for name in images.names()} for images in splits.values()]
    assert sum(map(len, patients)) > len(set().union(*patients))


def test_more_rows_move_no_others(tmp_path: Path) -> None:
    """Of patients who are there, and of others."""
    path = write_xrays(tmp_path, size=8)
    before = patients_of(path)
    header, *rows = path.read_text().splitlines()
    other = write_xrays(tmp_path / "more", size=8, patients=90, seed=1)
    for picture in (tmp_path / "more" / "images").iterdir():
        picture.rename(tmp_path / "images" / f"more-{picture.name}")
    more = [row.replace("images/", "images/more-") for row in other.read_text().splitlines()[1:]]
    path.write_text("\n".join([header, *more, *rows[::-1]]))
    after = patients_of(path)
    for name, patients in before.items():
        assert patients <= after[name]


def test_a_count_holds_out_whole_groups(tmp_path: Path) -> None:
    path = write_xrays(tmp_path, size=8)
    settings: dict[str, Any] = {"label_columns": FINDINGS, "val_count": 17}
    val = divide(read(path, **settings), config(path, **settings)).splits["val"]
    sizes: defaultdict[str, int] = defaultdict(int)
    for group in not_none(groups_of(val)):
        sizes[group] += 1
    assert 17 <= len(val) < 17 + max(sizes.values())


def test_the_fingerprint_knows_labels_and_groups(tmp_path: Path) -> None:
    path = write(tmp_path, "path,a,b,patient\n0.png,1,0,1\n1.png,0,1,2\n2.png,0,-1,3\n")

    def fingerprint() -> str:
        return read(path, label_columns="a,b").splits["train"].fingerprint()

    text, before = path.read_text(), fingerprint()
    assert fingerprint() == before
    for old, new in (("0,-1", "0,1"), ("0,-1", "1,-1"), ("-1,3", "-1,4"), ("-1,3", "0,3")):
        path.write_text(text.replace(old, new))
        assert fingerprint() != before, new


def test_every_value_of_the_made_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_xrays(tmp_path, size=8)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    meaning = {"1": 1.0, "0": 0.0, "-1": NAN, "": NAN}
    assert same(labels_of(path, label_columns=FINDINGS), [[meaning[row[name]] for name in FINDINGS] for row in rows])
    assert 0.05 < np.mean([row[name] in ("-1", "") for row in rows for name in FINDINGS]) < 0.15
