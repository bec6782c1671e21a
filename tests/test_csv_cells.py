"""Cells of written tables: any name comes back, the file is UTF-8, and no cell is a formula."""

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densekit.csv_cells import lines, path_cell, path_of, text_cell, text_of

NAMES = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text("=+-@'\\x5cb9\t\r\n,\"é/ ", min_size=1, max_size=12).map(str.encode),
).filter(lambda name: b"\0" not in name)


@given(NAMES)
def test_a_path_of_any_bytes_comes_back_as_the_same_path(name: bytes) -> None:
    path = os.fsdecode(name)
    assert Path(path_of(path_cell(path))) == Path(path)


@given(st.text("=+-@'\t\r1.e,é ", max_size=8))
def test_text_comes_back_unchanged(text: str) -> None:
    assert text_of(text_cell(text)) == text


@given(st.one_of(NAMES.map(os.fsdecode).map(path_cell), st.text(max_size=8).map(text_cell)))
def test_no_cell_is_a_formula_and_all_are_utf8(cell: str) -> None:
    cell.encode()
    if cell[:1] in tuple("=+-@\t\r"):
        float(cell)  # only a number may begin so


@given(st.lists(st.tuples(NAMES.map(os.fsdecode).map(path_cell), st.text(max_size=8).map(text_cell)), max_size=4))
def test_quoting_survives_a_reader_of_csv(rows: list[tuple[str, str]]) -> None:
    text = "".join(lines(("path", "class"), rows))
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == [["path", "class"], *map(list, rows)]


@pytest.mark.parametrize(
    ("path", "cell"),
    [("a/=1.png", "a/=1.png"), ("=1.png", "./=1.png"), (os.fsdecode(b"\xb9.png"), r"\xb9.png")],
)
def test_names_are_written_as_people_know_them(path: str, cell: str) -> None:
    assert path_cell(path) == cell


def test_numbers_are_no_formulas() -> None:
    assert [text_cell(cell) for cell in ("-1", "+0.5", "-1e-5")] == ["-1", "+0.5", "-1e-5"]
    assert text_cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
