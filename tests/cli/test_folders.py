"""Folders with litter, odd names and runs in them, as the verbs meet them."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Command
from tests.narrow import expect_type

SMALL = ("--model", "densenet_bc_10_4", "--epochs", 1, "--set", "data.image_size=16", "--set", "batch_size=8")
BYTES = os.fsdecode(b"\xb9\xb7")  # of a name that is not UTF-8


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)


def test_predict_of_a_folder_sees_what_training_sees(densekit: Command, photo_run: Path, photos: Path) -> None:
    """No litter, no folder that is called like an image, and a line about pictures that are not read."""
    picture(photos / "cat" / "@eaDir" / "0.png" / "thumb.png")
    picture(photos / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png")
    (photos / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    (photos / "cat" / "series.png").mkdir()
    status, out, err = densekit("predict", photo_run, photos / "cat")
    assert (status, len(out.splitlines()), err) == (0, 12, "")
    (photos / "cat" / "a.avif").write_bytes(b"x")
    status, out, err = densekit("predict", photo_run, photos / "cat", "--json")
    assert (status, len(out.splitlines())) == (0, 12)
    assert err == f"densekit: {photos / 'cat'}: 1 image is not used: 1 .avif\n"


@pytest.mark.parametrize(
    ("pattern", "count"), [("photos/**/*.png", 24), ("photos/*", 24), ("photos/c*", 12), ("photos/cat/@eaDir/*/*", 1)]
)
def test_a_glob_finds_files_without_litter_or_what_is_in_its_folders(
    densekit: Command, photo_run: Path, photos: Path, pattern: str, count: int
) -> None:
    """Litter that the pattern names is what was asked for."""
    picture(photos / "cat" / "@eaDir" / "0.png" / "thumb.png")
    status, out, err = densekit("predict", photo_run, pattern)
    assert (status, len(out.splitlines()), err) == (0, count, "")


def test_a_folder_of_unread_pictures_says_why_there_is_no_answer(
    densekit: Command, photo_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "1.nef").write_bytes(b"x")
    status, out, err = densekit("predict", photo_run, tmp_path / "raw")
    assert (status, out) == (3, "")
    assert "no pictures in" in err
    assert "1 image is not used: 1 .nef" in err


def test_unused_pictures_are_in_the_plan_and_in_the_evaluation(
    densekit: Command, photo_run: Path, photos: Path
) -> None:
    (photos / "cat" / "a.avif").write_bytes(b"x")
    (photos / "dog" / "gone.png").symlink_to("nowhere.png")
    line = "2 images are not used: 1 .avif, 1 behind broken links"
    _, _, err = densekit("train", photos, *SMALL, "--out", "run")
    assert f"  note      {line}\n" in err
    _, _, err = densekit("evaluate", photo_run, photos)
    assert err == f"{line}\n"
    _, out, _ = densekit("data", "check", photos)
    assert f"warning {line}\n" in out
    _, _, err = densekit("data", "shard", photos, "--out", "shards")
    assert line in err


def test_a_second_run_in_the_folder_of_the_images_trains_on_the_same(
    densekit: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = []
    for name in ("photos-densenet_bc_10_4", "photos-densenet_bc_10_4-2"):
        monkeypatch.chdir(photos)
        status, out, _ = densekit("train", ".", *SMALL)
        assert (status, out.splitlines()[-1]) == (0, f"report: runs/{name}/report.html")
        splits.append((photos / "runs" / name / "split.csv").read_bytes())
    assert splits[0] == splits[1]


@pytest.fixture
def odd_names(photos: Path) -> Path:
    """Among others a name that is not UTF-8, one of several lines, and one that a terminal would obey."""
    for i, name in enumerate((BYTES, "two\nlines", "\x1b[31mred")):
        (photos / "cat" / f"{i}.png").rename(photos / "cat" / f"{name}.png")
    (photos / "dog" / f"{BYTES}bad.png").write_text("no")
    return photos


def test_every_verb_prints_and_writes_odd_names(
    densekit: Command, photo_run: Path, odd_names: Path, tmp_path: Path
) -> None:
    allowed = ("--set", "data.max_bad=1")
    bad = r"dog/\xb9\xb7bad.png"
    status, out, err = densekit("train", odd_names, *SMALL, *allowed, "--out", "run")
    assert (status, bad in out) == (0, True)
    rows = list(csv.reader((tmp_path / "run" / "split.csv").read_text(encoding="utf-8").splitlines()))
    assert {r"cat/\xb9\xb7.png", r"cat/two\nlines.png", r"cat/\x1b[31mred.png"} < {row[1] for row in rows}
    assert bad in (tmp_path / "run" / "skipped.csv").read_text(encoding="utf-8")
    assert bad in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    status, out, err = densekit("evaluate", photo_run, odd_names, "--split", "all", *allowed)
    assert (status, bad in out, "\x1b" in out + err) == (0, True, False)
    status, out, err = densekit("predict", photo_run, odd_names)
    assert (status, len(out.splitlines()), err.count("\n"), "\x1b" in out + err) == (3, 24, 1, False)
    status, out, _ = densekit("data", "check", odd_names, "--out", "check.html")
    assert (status, bad in out, "\x1b" in out) == (3, True, False)
    (tmp_path / "check.html").read_text(encoding="utf-8")


def test_json_has_the_name_by_which_the_file_can_be_opened(densekit: Command, photo_run: Path, odd_names: Path) -> None:
    """As os.fsdecode gives it; what is printed is for people."""
    _, out, _ = densekit("predict", photo_run, odd_names / "cat", "--json")
    paths = [json.loads(line)["path"] for line in out.splitlines()]
    assert len(paths) == 12
    assert all(os.path.exists(path) for path in paths)


def test_a_class_that_is_not_utf8_is_one_line_and_status_3(densekit: Command, photos: Path) -> None:
    (photos / "dog").rename(photos / BYTES)
    for verb in (("train",), ("data", "check")):
        status, _, err = densekit(*verb, photos)
        assert (status, err.count("\n")) == (3, 1)
        assert r"class folder \xb9\xb7 in" in err


def test_a_terminal_of_another_encoding_gets_names_escaped(densekit: Command, photo_run: Path, photos: Path) -> None:
    (photos / "cat" / "0.png").rename(photos / "cat" / "\u732b.png")
    stdout = expect_type(sys.stdout, io.TextIOWrapper)
    before = stdout.encoding, stdout.errors
    stdout.reconfigure(encoding="latin-1")
    try:
        status, out, _ = densekit("predict", photo_run, photos / "cat")
    finally:
        stdout.reconfigure(encoding=before[0], errors=before[1])
    assert (status, r"cat/\u732b.png" in out) == (0, True)
