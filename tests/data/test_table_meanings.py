"""Cells and paths of a table that could silently mean something else."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from densekit.config import DataConfig
from densekit.data import DataSet, load
from densekit.data_check.inspection import as_dict, check
from densekit.errors import BadData, InvalidInput
from densekit.evaluation.evaluate import config_of


def read(path: Path, *, strict: bool = True, **given: object) -> DataSet:
    return load(DataConfig.model_validate({"source": f"csv:{path}"} | given), Path(), strict=strict)


def labelled(folder: Path, cells: list[str], header: str = "label") -> Path:
    """A table of these labels, and an image for each."""
    for i in range(len(cells)):
        Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    lines = [f"{i}.png,{cell}" for i, cell in enumerate(cells)]
    (folder / "t.csv").write_text("\n".join([f"path,{header}", *lines, ""]), encoding="utf-8")
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["nan", "a", "b"], r"line 2 .* has 'nan' for label.*blank_labels=unknown.*blank_labels=class"),
        (["a", "b", "NA", "NA"], r"line 4 .* has 'NA'.*there are 2"),
        (["a", "b", "None"], "has 'None'"),
        (["0", "1.0", "-1.0", "0"], r"has '-1\.0' for label"),
        (["1", "1.0", "0"], r"has 1 and 1\.0, which mean the same"),
        (["True", "yes", "no"], "True and yes, which mean the same"),
        (["TRUE", "True", "False"], "mean the same"),
        (["true", "1", "0"], "mean the same"),
        (["A", "A|B", "B"], r"has 'A\|B'.*data\.label_separator='\|'"),
        (["A|B", "B|C", "C|A"], r"label_separator='\|'"),
        (["A", "B", "A;B"], r"label_separator=';'"),
        ([str(i / 7) for i in range(60)], "60 different values in 60 rows.*data.label_columns"),
        (["caf\u00e9", "cafe\u0301"], "Unicode normalisation; write it in one way"),
        (["a b", "a\u00a0b"], "differ only in spaces"),
    ],
)
def test_cells_that_are_no_class_or_two_spellings_of_one_are_refused(
    tmp_path: Path, cells: list[str], words: str
) -> None:
    with pytest.raises(BadData, match=words) as caught:
        read(labelled(tmp_path, cells))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["-1", "1", "1"], ("-1", "1")),
        (["0", "1", "2"], ("0", "1", "2")),
        (['"crane, bird"', '"crane, machine"'], ("crane, bird", "crane, machine")),
        (["no", "yes"], ("no", "yes")),
    ],
)
def test_what_only_looks_like_it_is_a_class(tmp_path: Path, cells: list[str], classes: tuple[str, ...]) -> None:
    assert read(labelled(tmp_path, cells)).classes == classes


def test_rows_without_a_label_are_left_out_and_counted_if_the_setting_says_so(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["0", "-1", "", "1", "nan"], header="Effusion")
    data = read(path, label_columns="Effusion", blank_labels="unknown")
    assert data.classes == ("0", "1")
    assert data.splits["train"].names() == ["0.png", "3.png"]
    assert data.notes == ("3 of 5 rows have no Effusion, and are left out",)
    with pytest.raises(InvalidInput, match="absent is for several label columns"):
        read(path, label_columns="Effusion", blank_labels="absent")


def test_a_class_may_be_called_like_an_empty_cell_if_the_setting_says_so(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["NA", "None", "EU"])
    assert read(path, blank_labels="class").classes == ("EU", "NA", "None")
    path.write_text(path.read_text().replace("EU", ""))
    with pytest.raises(BadData, match=r"line 4 .* has no label"):
        read(path, blank_labels="class")


def test_classes_that_differ_in_case_are_named(tmp_path: Path) -> None:
    assert "Cat and cat" in read(labelled(tmp_path, ["Cat", "cat", "dog"])).notes[0]


def test_a_column_has_one_meaning(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["a", "b"])
    with pytest.raises(InvalidInput, match="label is named for two things"):
        read(path, label_columns="label", group_column="label")
    path.write_text("path,Patient\n0.png,a\n1.png,b\n")
    assert read(path, label_columns="Patient").columns == "images path; labels Patient"
    path.write_text("path,Label,label \n0.png,a,x\n1.png,b,y\n")
    with pytest.raises(BadData, match="columns Label and label; rename"):
        read(path)


@pytest.mark.parametrize(
    ("groups", "words"), [(["nan", "7"], "line 2 .* has no patient but 'nan'"), (["1", "1.0"], "1 and 1.0, one number")]
)
def test_groups_are_no_empty_cells_and_spelled_in_one_way(tmp_path: Path, groups: list[str], words: str) -> None:
    path = labelled(tmp_path, [f"a,{groups[0]}", f"b,{groups[1]}"], header="label,patient")
    with pytest.raises(BadData, match=words):
        read(path)


def test_an_encoding_is_read_or_named(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["caf\u00e9", "b"])
    text = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-16")
    assert read(path).classes == ("b", "caf\u00e9")
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadData, match=r"line 2 of .* is not UTF-8 \(byte 0xe9\).*Windows-1252.*iconv"):
        read(path)
    path.write_text(text, encoding="utf-16-le")
    with pytest.raises(BadData, match="perhaps UTF-16"):
        read(path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """b/cat/0.png to b/dog/4.png."""
    for i in range(10):
        path = tmp_path / "b" / ("cat", "dog")[i % 2] / f"{i // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path)
    return tmp_path


def listing(folder: Path, spelling: str, name: str = "t.csv") -> Path:
    rows = [spelling.format(label=label, i=i) + f",{label}" for label in ("cat", "dog") for i in range(5)]
    (folder / name).write_text("\n".join(["path,label", *rows, ""]))
    return folder / name


@pytest.mark.parametrize(
    ("place", "spelling", "words"),
    [
        (".", "b/{label}/{i}", r"b/cat/0\.png does, and 10 of the 10 in this way: append \.png in path"),
        (".", "b/{label}/{i}.jpg", r"b/cat/0\.png does, .*: write the suffix \.png in path"),
        (".", "{label}/{i}.png", r"set data\.image_root=.*/b$"),
        ("b", "b/{label}/{i}.png", r"b/cat/0\.png does, .*: set data\.image_root="),
        (".", "/other/b/{label}/{i}.png", "remove /other/ at the beginning of the paths in path"),
        (".", "C:\\x\\b\\{label}\\{i}.png", r"write / instead of \\ and remove C:/x/ at"),
        (".", "nowhere/{i}-{label}.bmp", "correct path, or set data.image_root"),
    ],
)
@pytest.mark.parametrize("max_bad", [0, 5, 100])
def test_files_that_are_not_there_are_counted_and_a_nearby_spelling_is_named(
    files: Path, place: str, spelling: str, words: str, max_bad: int
) -> None:
    with pytest.raises(BadData, match=words) as caught:
        read(listing(files / place, spelling), max_bad=max_bad)
    assert "all 10 files" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_backslashes_are_read_as_slashes_where_only_those_exist(files: Path) -> None:
    data = read(listing(files, r"b\{label}\{i}.png"))
    assert data.splits["train"].names()[0] == "b/cat/0.png"
    assert data.notes == ("the paths of the table are read with / instead of \\",)
    for label in ("cat", "dog"):
        for i in range(5):
            Image.new("L", (8, 8)).save(files / rf"b\{label}\{i}.png")
    assert read(listing(files, r"b\{label}\{i}.png")).splits["train"].names()[0] == r"b\cat\0.png"


def test_many_missing_files_within_the_budget_are_told(files: Path) -> None:
    for path in (files / "b").glob("*/[1-4].png"):
        path.unlink()
    data = read(listing(files, "b/{label}/{i}.png"), max_bad=9)
    assert "8 of 10 files" in data.notes[-1]


def test_images_of_several_labels_are_counted_once(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["1,1", "1,0", "0,1", "0,0"], header="a,b")
    config = DataConfig(source=f"csv:{path}", label_columns="a,b")
    found = check(load(config, Path()), config)
    assert as_dict(found)["images"] == {"train": 4}


def test_another_table_has_its_own_folder() -> None:
    trained = DataConfig(source="csv:a.csv", image_root="images", path_column="id")
    assert config_of("csv:b.csv", trained) == DataConfig(source="csv:b.csv", stratify=True)


def test_what_a_table_may_mean_otherwise_is_a_warning_of_a_check(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["Cat", "cat"])
    config = DataConfig(source=f"csv:{path}")
    found = {each.code: each for each in check(load(config, Path()), config).findings}
    assert found["unclear_table"].level == "warning"


@pytest.mark.parametrize(
    ("cells", "given", "noted"),
    [
        (["A", "A|B", "No Finding", "B"], {}, ["'No Finding' of label never stands beside another class"]),
        (["A", "A|B", "No Finding", "B"], {"no_label": "No Finding"}, []),
        (["A", "A|B", "C|D", "B|C"], {}, []),
        (["A", "A|B", "C", "D"], {}, []),  # two words alone: more than one can mean none
    ],
)
def test_a_word_that_may_stand_for_no_class_is_told(
    cells: list[str], given: dict[str, Any], noted: list[str], tmp_path: Path
) -> None:
    notes = read(labelled(tmp_path, cells), label_separator="|", **given).notes
    assert len(notes) == len(noted)
    assert all(part in note for part, note in zip(noted, notes, strict=True))
