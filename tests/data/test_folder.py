"""A folder is read as what it is: its splits, its classes and all of its pictures, or an error, or a line."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from densekit.config import DataConfig
from densekit.data import DataSet, load
from densekit.data.list_images import scan
from densekit.data.sets import FileImages
from densekit.data.sources.registry import short_name
from densekit.data_check.inspection import check
from densekit.errors import BadData
from tests.conftest import write_photos
from tests.narrow import expect_type


def read(root: Path, *, strict: bool = True) -> DataSet:
    return load(DataConfig(source=str(root)), Path(), strict=strict)


def counts(data: DataSet) -> dict[str, int]:
    return {name: len(images) for name, images in data.splits.items()}


def names(data: DataSet, split: str = "train") -> list[str]:
    return data.splits[split].names()


def unused(data: DataSet) -> dict[str, str]:
    root = expect_type(data.splits["train"], FileImages).root
    return {each.path.relative_to(root).as_posix(): each.reason for each in data.unused}


def picture(path: Path, shade: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path, "PNG")
    return path


@pytest.mark.parametrize(
    ("train", "held_out", "split"),
    [
        ("train", "val", "val"),
        ("Train", "Test", "test"),
        ("training", "testing", "test"),
        ("train", "valid", "val"),
        ("TRAIN", "validation", "val"),
        ("train", "Test", "test"),
    ],
)
def test_splits_are_found_under_the_words_that_tables_know(
    tmp_path: Path, train: str, held_out: str, split: str
) -> None:
    write_photos(tmp_path / train, count=3)
    write_photos(tmp_path / held_out, count=2)
    data = read(tmp_path)
    assert counts(data) == {"train": 6, split: 4}
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize("second", ["Train", "training"])
def test_two_folders_of_one_split_are_refused(tmp_path: Path, second: str) -> None:
    for name in ("train", second):
        write_photos(tmp_path / name, count=1)
    with pytest.raises(BadData, match=rf"{second} and train|train and {second}"):
        read(tmp_path)


@pytest.mark.parametrize("strict", [True, False])
def test_splits_without_training_images_are_refused(tmp_path: Path, strict: bool) -> None:
    for name in ("val", "Test"):
        write_photos(tmp_path / name, count=1)
    with pytest.raises(BadData, match="val and Test, but no training images"):
        read(tmp_path, strict=strict)


@pytest.mark.parametrize("only", ["train", "testing"])
def test_folders_beside_a_lone_split_are_named(tmp_path: Path, only: str) -> None:
    write_photos(tmp_path, classes=("bus", "car"), count=1)
    write_photos(tmp_path / only, classes=("steam", "diesel"), count=1)
    with pytest.raises(BadData, match=f"bus and car in .* are neither a split nor part of one, but {only} is"):
        read(tmp_path)


def test_a_folder_beside_whole_splits_is_counted_and_not_used(tmp_path: Path) -> None:
    for name in ("train", "test", "backup"):
        write_photos(tmp_path / name, count=2)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "all.txt").write_text("cat")
    data = read(tmp_path)
    assert counts(data) == {"train": 4, "test": 4}
    assert data.remarks() == ["4 images are not used: 4 in no split"]


def test_a_class_that_is_called_like_a_split_is_a_class_and_that_is_said(tmp_path: Path) -> None:
    write_photos(tmp_path, classes=("bus", "train"), count=2)
    data = read(tmp_path)
    assert data.classes == ("bus", "train")
    assert data.remarks() == [
        "train is read as a class, as it holds images and no class folders; move it away if it is a split"
    ]


def test_splits_of_loose_images_are_no_classes(tmp_path: Path) -> None:
    write_photos(tmp_path, classes=("train", "test"), count=2)
    with pytest.raises(BadData, match=r"test and train in .* hold images and not a folder for each class"):
        read(tmp_path)


def test_a_test_of_loose_images_beside_a_divided_train_is_refused(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", count=2)
    picture(tmp_path / "test" / "1.png")
    with pytest.raises(BadData, match=r"test in .* holds images, but train holds class folders"):
        read(tmp_path)


LITTER = (
    "cat/.ipynb_checkpoints/0-checkpoint.png",
    "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.png",
    "dog/.thumbnails/0.png",
    "dog/deep/__MACOSX/0.png",
    "cat/._0.png",
    "__MACOSX/cat/0.png",
    "#recycle/0.png",
    "$RECYCLE.BIN/0.png",
    "System Volume Information/0.png",
    "lost+found/0.png",
)


def test_litter_is_not_seen_at_any_depth(tmp_path: Path) -> None:
    write_photos(tmp_path, count=3)
    for place in LITTER:
        picture(tmp_path / place)
    for strict in (True, False):
        data = read(tmp_path, strict=strict)
        assert names(data) == [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)]
        assert (data.classes, data.unused) == (("cat", "dog"), ())


def test_a_folder_that_is_called_like_an_image_is_a_folder(tmp_path: Path) -> None:
    write_photos(tmp_path, count=1)
    picture(tmp_path / "cat" / "series.png" / "1.png")
    assert names(read(tmp_path)) == ["cat/0.png", "cat/series.png/1.png", "dog/0.png"]


def test_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """Which decides the batches: a separator sorts before every character of a name."""
    for place in ("a/z.png", "a b/1.png", "a.png", "a-1/1.png", "A.png", "ab/1.png", "a/b/1.png"):
        picture(tmp_path / place)
    assert list(scan(tmp_path).images) == sorted(tmp_path.rglob("*.png"))


def test_folders_behind_links_are_read(tmp_path: Path) -> None:
    store = write_photos(tmp_path / "store", count=3)
    root = write_photos(tmp_path / "photos", count=2)
    for name in ("cat", "dog"):
        (root / name / "part").symlink_to(store / name)
    assert names(read(root))[:5] == ["cat/0.png", "cat/1.png", *(f"cat/part/{i}.png" for i in range(3))]


def test_loops_of_links_end(tmp_path: Path) -> None:
    """Upwards, to itself, and between two folders of which each links to the other."""
    root = write_photos(tmp_path / "photos", count=2)
    other = write_photos(tmp_path / "store", classes=("x", "y"), count=1)
    (root / "cat" / "all").symlink_to(root)
    (root / "cat" / "self").symlink_to("self")
    (root / "cat" / "x").symlink_to(other / "x")
    (other / "x" / "y").symlink_to(other / "y")
    (other / "y" / "x").symlink_to(other / "x")
    data = read(root)
    assert names(data) == ["cat/0.png", "cat/1.png", "cat/x/0.png", "cat/x/y/0.png", "dog/0.png", "dog/1.png"]
    assert unused(data) == {"cat/self": "behind broken links"}


def test_a_file_that_a_class_reaches_twice_is_one_image(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", count=2)
    (root / "cat" / "00.png").symlink_to(root / "cat" / "1.png")
    (root / "dog" / "again").symlink_to(root / "dog")
    (root / "dog" / "sub").mkdir()
    (root / "dog" / "link").symlink_to(root / "dog" / "sub")
    picture(root / "dog" / "sub" / "9.png")
    data = read(root)
    assert names(data) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/sub/9.png"]
    assert unused(data) == {"cat/00.png": "reached twice through links"}


def test_broken_links_are_counted(tmp_path: Path) -> None:
    write_photos(tmp_path, count=2)
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "emu").symlink_to("nowhere")
    assert read(tmp_path).remarks() == ["2 images are not used: 2 behind broken links"]


def test_pictures_that_are_not_used_are_counted_with_the_reason(tmp_path: Path) -> None:
    """By training and by the check alike; files that are no pictures are not."""
    root = write_photos(tmp_path, count=3)
    for i in range(2):
        (root / "cat" / f"{i}.avif").write_bytes(b"\0\0\0\x1cftypavif")
        picture(root / "dog" / f"IMG_{i}")
    picture(root / "dog" / "odd.dat")
    picture(root / "top.png")
    (root / "dog" / "notes.txt").write_text("two dogs")
    data = read(root)
    expected = "6 images are not used: 2 .avif, 2 without a suffix, 1 .dat, 1 outside the class folders"
    assert data.remarks() == [expected]
    config = DataConfig(source=str(root))
    ignored = next(each for each in check(read(root, strict=False), config).findings if each.code == "ignored")
    assert (ignored.message, len(ignored.items)) == (expected, 6)


def test_a_class_of_unread_pictures_says_why(tmp_path: Path) -> None:
    write_photos(tmp_path, count=2)
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "1.heic").write_bytes(b"x")
    with pytest.raises(BadData, match=r"images of emu .*\(1 image is not used: 1 \.heic\)"):
        read(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path, count=2)
    (tmp_path / "cat" / "private").mkdir()
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(BadData, match=r"cannot read .*private: Permission denied"):
        read(tmp_path)


@pytest.mark.parametrize(
    "markers",
    [
        ("config.yaml", "checkpoints/last/config.json"),
        ("env.json", "events.jsonl"),
        ("config.json", "model.safetensors"),
        ("parity.json",),
    ],
)
@pytest.mark.parametrize("place", ["runs/first", "run", "cat/run"])
def test_what_densekit_has_written_is_no_class(tmp_path: Path, markers: tuple[str, ...], place: str) -> None:
    write_photos(tmp_path, count=2)
    for marker in markers:
        (tmp_path / place / marker).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place / marker).touch()
    picture(tmp_path / place / "samples" / "1.png")
    data = read(tmp_path)
    assert (data.classes, len(names(data)), data.unused) == (("cat", "dog"), 4, ())


def test_an_empty_folder_is_to_be_moved_not_removed(tmp_path: Path) -> None:
    write_photos(tmp_path, count=2)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "check.html").touch()
    with pytest.raises(BadData, match=r"no readable images of pages .* move what is no class out of"):
        read(tmp_path)


@pytest.mark.parametrize("source", [".", "./", "../photos", "../photos/", "{}/."])
def test_a_run_is_called_after_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos")
    assert short_name(source.format(tmp_path / "photos")) == "photos"
    monkeypatch.chdir("cat")
    assert short_name("..") == "photos"


@pytest.mark.parametrize(("source", "name"), [(".hidden", "hidden"), ("/", "data"), ("digits", "digits")])
def test_a_run_is_never_hidden(source: str, name: str) -> None:
    assert short_name(source) == name


@pytest.mark.parametrize("name", [os.fsdecode(b"\xb9\xb7"), "a\nb", "a\x1b[31mb", "a\u202eb"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_class_whose_name_is_no_text_is_refused_by_name(tmp_path: Path, name: str, strict: bool) -> None:
    write_photos(tmp_path, classes=("cat", name), count=1)
    with pytest.raises(BadData, match=r"class folder \S+ in .* rename it") as caught:
        read(tmp_path, strict=strict)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("first", "second"), [("caf\u00e9", "cafe\u0301"), ("cat", "cat "), ("red fox", "red  fox")])
def test_classes_that_look_the_same_are_refused(tmp_path: Path, first: str, second: str) -> None:
    write_photos(tmp_path, classes=(first, second), count=1)
    with pytest.raises(BadData, match="differ only in spaces or in Unicode normalisation"):
        read(tmp_path)


def test_classes_that_differ_in_case_are_two_and_said_to_be(tmp_path: Path) -> None:
    """Letters of a script are such classes."""
    write_photos(tmp_path, classes=("A", "a", "B", "b"), count=1)
    data = read(tmp_path)
    assert data.classes == ("A", "B", "a", "b")
    assert data.remarks() == [
        "A and a and 1 other pair are different classes, though only upper and lower case differs"
    ]


def test_a_class_in_other_case_in_another_split_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", count=1)
    write_photos(tmp_path / "val", classes=("Cat", "dog"), count=1)
    with pytest.raises(BadData, match=r"classes that train/ has not: Cat \(train has cat\)"):
        read(tmp_path)


def test_names_are_printable_and_the_files_are_still_found(tmp_path: Path) -> None:
    root = write_photos(tmp_path, count=2)
    odd = [os.fsdecode(b"\xb9\xb7.png"), "a\nb.png", "\x1b[31m.png", "中文\u3000.png"]
    for i, name in enumerate(odd):
        picture(root / "cat" / name, i)
    data = read(root)
    images = data.splits["train"]
    assert isinstance(images, FileImages)
    assert {r"cat/\xb9\xb7.png", r"cat/a\nb.png", r"cat/\x1b[31m.png", "cat/中文\u3000.png"} < set(images.names())
    assert len(images.content_hashes()) == 8
    before = images.fingerprint()
    shutil.move(root / "cat" / odd[0], root / "cat" / os.fsdecode(b"\xb9\xb8.png"))
    assert read(root).splits["train"].fingerprint() != before


@pytest.mark.parametrize("form", ["", "csv:"])
def test_data_at_a_path_that_is_not_utf8_are_refused_at_once(tmp_path: Path, form: str) -> None:
    """A model could not say in its config.json what it was trained on."""
    root = write_photos(tmp_path / os.fsdecode(b"\xb9"), count=1)
    with pytest.raises(BadData, match=r"\\xb9 is not UTF-8"):
        load(DataConfig(source=f"{form}{root}"), Path())
