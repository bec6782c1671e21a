"""Folders that are called like classes: on every file system, and never two classes in one."""

import os
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densekit.data.file_names import folder_names, numbered
from densekit.data.list_images import is_litter

CLASSES = st.lists(st.text(max_size=12) | st.text("aA./\\é-2 ", max_size=5), max_size=8, unique=True)


@given(CLASSES)
def test_classes_get_folders_that_no_file_system_takes_for_the_same(classes: list[str]) -> None:
    names = folder_names(classes)
    assert len(names) == len(classes)
    assert len({unicodedata.normalize("NFC", name.casefold()) for name in names}) == len(classes)


@given(CLASSES)
def test_such_a_folder_can_be_made_where_it_should_be(classes: list[str]) -> None:
    with TemporaryDirectory() as folder:
        for name in folder_names(classes):
            (Path(folder) / name).mkdir()
            assert not is_litter(name)
        assert len(os.listdir(folder)) == len(classes)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("T-shirt, 100 % wool", "T-shirt, 100 % wool"),
        ("日本", "日本"),
        ("a/b", "a_b"),
        ("..", "_"),
        ("", "_"),
        (".hidden", "_.hidden"),
        ("what?", "what_"),
        ("NUL", "_NUL"),
        ("end. ", "end"),
        ("line\nbreak", "line_break"),
    ],
)
def test_a_name_stays_as_it_is_where_that_is_possible(name: str, safe: str) -> None:
    assert folder_names([name]) == (safe,)


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    names = folder_names(["é" * 200 + "a", "é" * 200 + "b"])
    assert len(set(names)) == 2
    assert max(len(name.encode()) for name in names) <= 120


@pytest.mark.parametrize(
    ("name", "second"), [("a.jpg", "a-2.jpg"), ("a", "a-2"), (".jpg", ".jpg-2"), ("a.b.jpg", "a.b-2.jpg")]
)
def test_numbers_come_before_the_suffix(name: str, second: str) -> None:
    assert (numbered(name, 1), numbered(name, 2)) == (name, second)
