"""One column with two values: one label where they say present and absent, two classes where they are names."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from densekit.config import DataConfig
from densekit.data import DataSet, load
from densekit.data.sources.table_binary import absent_and_present
from densekit.errors import BadData, UnknownName

PAIRS = [
    ("0", "1"),
    ("0.0", "1.0"),
    ("no", "yes"),
    ("N", "Y"),
    ("False", "True"),
    ("negative", "positive"),
    ("neg", "pos"),
    ("absent", "present"),
    ("normal", "abnormal"),
    ("no pneumonia", "pneumonia"),
    ("No_Pneumonia", "Pneumonia"),
    ("non-melanoma", "melanoma"),
    ("nonmelanoma", "melanoma"),
    ("without fracture", "fracture"),
]


def read(folder: Path, cells: list[str], **given: Any) -> DataSet:
    for i in range(len(cells)):
        Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    lines = [f"{i}.png,{cell}" for i, cell in enumerate(cells)]
    (folder / "t.csv").write_text("\n".join(["path,ill", *lines, ""]), encoding="utf-8")
    settings = {"source": f"csv:{folder / 't.csv'}", "label_columns": "ill"} | given
    return load(DataConfig.model_validate(settings).as_trained(), Path())


def labels(data: DataSet) -> list[Any]:
    """Class numbers; or a list an image, of several labels."""
    found: list[Any] = data.splits["train"].labels.tolist()
    return found


@pytest.mark.parametrize(("absent", "present"), PAIRS)
def test_a_column_of_absent_and_present_is_one_label_called_like_it(tmp_path: Path, absent: str, present: str) -> None:
    data = read(tmp_path, [absent, present, present])
    assert (data.classes, data.multi_label) == (("ill",), True)
    assert labels(data) == [[0], [1], [1]]
    assert data.notes == (f"ill is one label: '{present}' present and '{absent}' absent",)


@pytest.mark.parametrize("names", [("cat", "dog"), ("benign", "malignant"), ("1", "2"), ("-1", "1"), ("now", "w")])
def test_two_names_are_two_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    data = read(tmp_path, list(names))
    assert (data.classes, data.multi_label) == (names, False)


def test_two_classes_are_kept_if_the_setting_says_so(tmp_path: Path) -> None:
    data = read(tmp_path, ["0", "1"], binary="classes")
    assert (data.classes, labels(data)) == (("0", "1"), [0, 1])


def test_a_data_set_of_an_older_version_has_two_classes(tmp_path: Path) -> None:
    read(tmp_path, ["0", "1"])
    assert load(DataConfig(source=f"csv:{tmp_path}/t.csv", label_columns=("ill",)), Path()).classes == ("0", "1")


def test_the_positive_value_can_be_named(tmp_path: Path) -> None:
    data = read(tmp_path, ["0", "1", "1"], positive="0")
    assert labels(data) == [[1], [0], [0]]
    with pytest.raises(UnknownName, match=r"value of ill 'yes'"):
        read(tmp_path, ["0", "1"], positive="yes")


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    data = read(tmp_path, ["0", "-1", "", "1"], blank_labels="unknown")
    assert (labels(data), data.splits["train"].names()) == ([[0], [1]], ["0.png", "3.png"])
    assert data.notes[1] == "2 of 4 rows have no ill, and are left out"
    with pytest.raises(BadData, match=r"line 4 .* has no ill"):
        read(tmp_path, ["0", "1", ""])


def test_a_table_may_have_one_of_the_two_values_alone(tmp_path: Path) -> None:
    """As one of healthy patients has, on which a model is measured."""
    data = read(tmp_path, ["0", "0"])
    assert (data.classes, labels(data)) == (("ill",), [[0], [0]])


@pytest.mark.parametrize("cells", [["1", "1.0", "0"], ["yes", "Yes", "no"], ["true", "1", "0"]])
def test_one_value_in_two_spellings_is_refused(tmp_path: Path, cells: list[str]) -> None:
    with pytest.raises(BadData, match=r"mean the same|classes"):
        read(tmp_path, cells)


@given(st.sampled_from(PAIRS), st.booleans(), st.booleans())
def test_neither_order_nor_case_decides(pair: tuple[str, str], turned: bool, upper: bool) -> None:
    absent, present = (value.upper() if upper else value for value in pair)
    values = (present, absent) if turned else (absent, present)
    assert absent_and_present(values) == (absent, present)
    assert absent_and_present(values, absent) == (present, absent)
