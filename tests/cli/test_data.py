"""`densekit data check` as people and programs meet it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Command


def test_sound_data_pass(densekit: Command, photos: Path) -> None:
    status, out, _ = densekit("data", "check", photos)
    assert status == 0
    assert out.splitlines()[-1] == "no error: fit for training"


def test_an_error_is_3_with_the_files_and_what_to_do(densekit: Command, photos: Path) -> None:
    shutil.copy(photos / "cat" / "0.png", photos / "dog" / "copy.png")
    status, out, err = densekit("data", "check", photos)
    assert (status, err) == (3, "")
    assert "error   1 picture under two classes or more" in out
    assert "cat/0.png (cat)" in out
    assert "dog/copy.png (dog)" in out
    assert "keep each under the right class" in out
    assert "one kind of error: mend it before training" in out


def test_json_is_alone_on_standard_output(densekit: Command, photos: Path) -> None:
    (photos / "cat" / "bad.png").write_text("no")
    status, out, _ = densekit("data", "check", photos, "--json")
    report = json.loads(out)
    assert status == 3
    assert not report["passed"]
    assert report["findings"][0]["code"] == "unreadable"
    assert sum(count for split in report["splits"].values() for count in split.values()) == 24


def test_bad_files_may_be_allowed(densekit: Command, photos: Path) -> None:
    (photos / "cat" / "bad.png").write_text("no")
    status, out, _ = densekit("data", "check", photos, "--set", "data.max_bad=1")
    assert status == 0
    assert "1 image file cannot be read; data.max_bad allows 1" in out


def test_groups_leak_where_densekit_divides(densekit: Command, photos: Path) -> None:
    """Image by image: all of one class in one group cannot but be torn apart."""
    status, out, _ = densekit("data", "check", photos, "--group", "^(cat)/")
    assert status == 3
    assert "1 of 1 group with images in more than one split" in out
    assert "densekit divides image by image" in out


def test_the_page_is_written_and_named(densekit: Command, photos: Path, tmp_path: Path) -> None:
    status, out, _ = densekit("data", "check", photos, "--out", "check.html")
    assert status == 0
    assert out.splitlines()[-1] == "report: check.html"
    assert (tmp_path / "check.html").stat().st_size > 1000


def test_a_page_that_cannot_be_written_is_named(densekit: Command, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "check.html").mkdir()
    status, _, err = densekit("data", "check", photos, "--out", "check.html")
    assert (status, err.count("\n")) == (2, 1)


def test_data_without_a_verb_is_the_help_and_2(densekit: Command) -> None:
    status, out, err = densekit("data")
    assert (status, err) == (2, "")
    assert "check" in out


@pytest.mark.parametrize("source", ["digits", "synthetic:32x32x3:3:90"])
def test_named_sources_can_be_checked(densekit: Command, source: str) -> None:
    status, out, _ = densekit("data", "check", source)
    assert status == 0
    assert "no error" in out
