"""Shards are read in place, and written so that others can read them."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.config import DataConfig, Preprocessing
from densekit.data import Loader, load
from densekit.data.sets import ArrayImages, FileImages
from densekit.data.shards import ShardImages, _braces, shards, write_shards
from densekit.errors import BadData
from tests.conftest import write_photos


def picture(value: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 7, 3), value, np.uint8)).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(count: int, *, first: int = 0, classes: int = 2) -> dict[str, bytes]:
    files = {}
    for i in range(first, first + count):
        files |= {f"{i:05}.png": picture(i % 256), f"{i:05}.cls": str(i % classes).encode()}
    return files


def test_splits_classes_and_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", samples(3))
    write_tar(tmp_path / "train-1.tar", samples(4, first=3))
    write_tar(tmp_path / "val-0.tar", samples(2, first=7))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = load(DataConfig(source=f"wds:{tmp_path}"), tmp_path)
    assert data.classes == ("cat", "dog")
    train, val = data.splits["train"], data.splits["val"]
    assert isinstance(train, ShardImages)
    assert (len(train), len(val)) == (7, 2)
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert [train.read(i) for i in range(7)] == [picture(i) for i in range(7)]
    assert train.names()[3] == "train-1.tar/00003"
    part = train.subset(np.array([5, 0]))
    assert [part.read(0), part.read(1)] == [picture(5), picture(0)]
    assert part.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("{x,y}-{9..10}", ["x-9", "x-10", "y-9", "y-10"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_are_those_of_shells(pattern: str, expected: list[str]) -> None:
    assert list(_braces(pattern)) == expected


def test_labels_may_be_names_or_in_json_and_keys_in_folders(tmp_path: Path) -> None:
    files = {
        "a/1.jpg": picture(1, "JPEG"), "a/1.json": json.dumps({"label": "dog"}).encode(),
        "b/1.input.png": picture(2), "b/1.cls": b"cat\n", "b/1.txt": b"a caption",
    }  # fmt: skip
    data = shards(str(write_tar(tmp_path / "some.tar", files)))
    assert data.classes == ("cat", "dog")
    assert data.splits["train"].labels.tolist() == [1, 0]
    assert data.splits["train"].names() == ["some.tar/a/1", "some.tar/b/1"]


def test_the_index_is_kept_and_made_anew_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "train-0.tar", samples(4))
    before = shards(str(path)).splits["train"].fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        assert shards(str(path)).splits["train"].fingerprint() == before
    write_tar(path, samples(5))
    assert len(shards(str(path)).splits["train"]) == 5
    assert shards(str(path)).splits["train"].fingerprint() != before


def test_a_damaged_index_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "train-0.tar", samples(4))
    shards(str(path))
    (kept,) = (tmp_path / "cache" / "densekit" / "shards").iterdir()
    for content in (b"", b"PK\3\4 no zip", kept.read_bytes()[:-30]):
        kept.write_bytes(content)
        assert len(shards(str(path)).splits["train"]) == 4


WRONG: dict[str, tuple[dict[str, bytes], str]] = {
    "no label": ({"a.png": b"x"}, "no label for a"),
    "no image": ({"a.cls": b"1"}, "no image for a"),
    "two images": ({"a.png": b"x", "a.jpg": b"y", "a.cls": b"1"}, "two images for a"),
    "damaged JSON": ({"a.png": b"x", "a.json": b"{"}, "damaged"),
    "a label that is no text": ({"a.png": b"x", "a.cls": b"\xff\xfe"}, "damaged"),
    "a list": ({"a.png": b"x", "a.json": b"[1]"}, "no label for a"),
    "nothing": ({}, "no samples"),
    "files apart": ({"a.png": b"x", "b.png": b"x", "a.cls": b"1", "b.cls": b"1"}, "no label for a"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    files, words = WRONG[case]
    with pytest.raises(BadData, match=words):
        shards(str(write_tar(tmp_path / "train-0.tar", files)))


def test_compressed_truncated_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="in place"):
        shards(str(write_tar(tmp_path / "a.tar", samples(2), "w:gz")))
    whole = write_tar(tmp_path / "b.tar", samples(3)).read_bytes()
    for length in (700, 512 * 3 + 100, 90):
        (tmp_path / "c.tar").write_bytes(whole[:length])
        with pytest.raises(BadData):
            shards(str(tmp_path / "c.tar"))
    with pytest.raises(BadData, match="no shards"):
        shards(str(tmp_path / "nothing-*.tar"))


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", samples(6, classes=3))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(BadData, match="none of its 2 classes"):
        shards(str(tmp_path))


def preprocessing() -> Preprocessing:
    return Preprocessing(size=(6, 6), channels=3, resize=6, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_written_shards_hold_the_same_files(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    files = load(DataConfig(source=str(photos)), tmp_path).splits["train"]
    assert isinstance(files, FileImages)
    (tmp_path / "out").mkdir()
    written = list(write_shards(files, tmp_path / "out", "train", 20_000))
    assert len(written) > 2
    assert sum(count for _, count in written) == len(files)
    (tmp_path / "out" / "classes.txt").write_text("cat\ndog\n")
    data = shards(str(tmp_path / "out"))
    images = data.splits["train"]
    theirs = {(path.read_bytes(), label) for path, label in zip(files.paths, files.labels.tolist(), strict=True)}
    assert {(images.read(i), label) for i, label in enumerate(images.labels.tolist())} == theirs
    # To the byte, so that a copy can be compared with another.
    (tmp_path / "again").mkdir()
    for (path, _), (again, _) in zip(written, write_shards(files, tmp_path / "again", "train", 20_000), strict=True):
        assert path.read_bytes() == again.read_bytes()


def test_pixels_are_written_without_loss(tmp_path: Path) -> None:
    arrays = ArrayImages(torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8), torch.arange(20) % 4)
    assert [count for _, count in write_shards(arrays, tmp_path, "train", 10**6)] == [20]
    images = shards(str(tmp_path)).splits["train"]
    loader = Loader(
        images, preprocessing().model_copy(update={"channels": 1, "size": (8, 8), "mean": (0.0,), "std": (1.0,)}), 7
    )
    seen = {
        tuple((batch.images[i] * 255).round().flatten().int().tolist())
        for batch in loader.epoch()
        for i in range(len(batch.samples))
    }
    assert seen == {tuple(pixels.flatten().tolist()) for pixels in arrays.pixels}


def test_every_sample_is_seen_once_over_processes_and_stops(tmp_path: Path) -> None:
    """Two ranks; one epoch that is left in its middle and gone on with."""
    for shard in range(3):
        write_tar(tmp_path / f"train-{shard}.tar", samples(37, first=37 * shard))
    images = shards(str(tmp_path)).splits["train"]
    from densekit.config import AugmentConfig

    seen: list[int] = []
    for rank in range(2):
        for first, last in ((0, 3), (3, None)):
            loader = Loader(images, preprocessing(), 16, AugmentConfig(), seed=1, rank=rank, size=2, workers=rank)
            batches = list(loader.epoch(4, skip=first))[: None if last is None else last - first]
            seen += [i for batch in batches for i in batch.samples.tolist()]
            for batch in batches:
                for x, sample in zip(batch.images, batch.samples.tolist(), strict=True):
                    assert round(float(x[0, 3, 3]) * 127.5 + 127.5) == sample % 256
    assert sorted(seen) == list(range(111))
