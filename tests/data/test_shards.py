"""Shards are read in place, whole or not at all, and written so that others can read them."""

import io
import itertools
import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

import densekit
from densekit.config import AugmentConfig, DataConfig, Preprocessing
from densekit.data import DataSet, Loader, load
from densekit.data.sets import ArrayImages, FileImages, SkipList
from densekit.data.sources import shards as module
from densekit.data.sources.expected import Expected
from densekit.data.sources.shard_writer import write_shards
from densekit.data.sources.shards import ShardImages, _braces
from densekit.data.split import divide
from densekit.data.write_shards import shard
from densekit.data_check.check import check
from densekit.errors import BadData, BadImage, InvalidInput
from tests.conftest import write_photos
from tests.data.pictures import preprocessing
from tests.narrow import expect_type


def shards(pattern: str | Path) -> DataSet:
    return load(DataConfig(source=f"wds:{pattern}"), Path())


def picture(value: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 7, 3), value, np.uint8)).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes], mode: Literal["w", "w:gz"] = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    os.utime(path, (1e9, 1e9))  # what has just been written is not kept, as it may be written again
    return path


def samples(count: int, *, first: int = 0, classes: int = 2) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
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
    assert [train.encoded(i) for i in range(7)] == [picture(i) for i in range(7)]
    assert train.names()[3] == "train-1.tar/00003"
    part = train.subset(np.array([5, 0]))
    assert [part.encoded(0), part.encoded(1)] == [picture(5), picture(0)]
    assert part.labels.tolist() == [1, 0]


def test_litter_beside_and_inside_shards_is_left_out(tmp_path: Path) -> None:
    """Attributes that macOS writes as ._FILE, and the thumbnails of a network disk."""
    files = {f"./{name}": content for name, content in samples(4).items()}
    files |= {
        "./._00000.png": b"\0\5\x16\7",
        "__MACOSX/00000.png": picture(1),
        "@eaDir/00000.png/thumb.png": picture(1),
    }
    write_tar(tmp_path / "a.tar", files)
    (tmp_path / "._a.tar").write_bytes(b"\0\5\x16\7")
    write_tar(tmp_path / "@eaDir" / "a.tar", samples(2))
    assert len(shards(tmp_path).splits["train"]) == 4


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("{x,y}-{9..10}", ["x-9", "x-10", "y-9", "y-10"]),
        ("{08..10}{3..2}", ["083", "082", "093", "092", "103", "102"]),
        ("{x}{}", ["{x}{}"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_are_those_of_shells(pattern: str, expected: list[str]) -> None:
    assert _braces(pattern) == expected
    if bash := shutil.which("bash"):
        said = subprocess.run([bash, "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
        assert said.stdout.split() == expected


WORDS = some.text("ab-_.09", max_size=3)
GROUPS = some.one_of(
    some.tuples(some.integers(0, 120), some.integers(0, 120), some.integers(1, 3)),
    some.lists(WORDS, min_size=2, max_size=3),
)


@given(some.lists(some.tuples(WORDS, GROUPS), max_size=3), WORDS)
def test_every_combination_is_named_once_and_in_order(
    parts: list[tuple[str, list[str] | tuple[int, int, int]]], tail: str
) -> None:
    pattern, choices = "", []
    for before, group in parts:
        if isinstance(group, list):
            pattern += before + "{" + ",".join(group) + "}"
            choices.append([before + word for word in group])
        else:
            first, last, width = group
            texts = [str(number).zfill(width) for number in (first, last)]
            padded = any(len(text) > 1 and text.startswith("0") for text in texts)
            numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
            pattern += f"{before}{{{texts[0]}..{texts[1]}}}"
            choices.append([before + str(n).zfill(max(map(len, texts)) if padded else 0) for n in numbers])
    if np.prod([len(choice) for choice in choices]) < 20_000:
        assert _braces(pattern + tail) == ["".join(words) + tail for words in itertools.product(*choices)]


def test_a_range_without_end_is_refused_and_a_missing_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="more than 1,000,000"):
        shards("a-{0..99999999999}.tar")
    with pytest.raises(BadData, match="more than 1,000,000"):
        shards("a-{0..9999}{0..9999}.tar")
    write_tar(tmp_path / "train-0.tar", samples(4))
    with pytest.raises(BadData, match=r"train-1\.tar, which does not exist"):
        shards(tmp_path / "train-{0..1}.tar")


@pytest.mark.parametrize("source", ["https://host/a-{0..9}.tar", "s3://bucket/a.tar", "pipe:cat a.tar"])
def test_remote_shards_are_refused_in_one_line(source: str) -> None:
    with pytest.raises(BadData, match="not on this machine") as caught:
        shards(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-0", "val-0", "test-0"], {"train": 1, "val": 1, "test": 1}),
        (["imagenet1k-train-00", "imagenet1k-validation-00", "imagenet1k-train-01"], {"train": 2, "val": 1}),
        (["train/0", "train/1", "valid/0"], {"train": 2, "val": 1}),
        (["a", "b"], {"train": 2}),
        (["val-0", "val-1"], {"train": 2}),
        (["trained-cats", "contest"], {"train": 2}),
    ],
)
def test_names_say_the_split(names: list[str], expected: dict[str, int], tmp_path: Path) -> None:
    for name in names:
        write_tar(tmp_path / f"{name}.tar", samples(2))
    data = shards(tmp_path)
    assert {split: len(images) for split, images in data.splits.items()} == {k: 2 * n for k, n in expected.items()}


def test_labels_may_be_names_or_in_json_and_keys_in_folders(tmp_path: Path) -> None:
    files = {
        "a/1.jpg": picture(1, "JPEG"), "a/1.json": json.dumps({"label": "dog"}).encode(),
        "b/1.input.png": picture(2), "b/1.cls": b"cat\n", "b/1.txt": b"a caption",
    }  # fmt: skip
    data = shards(write_tar(tmp_path / "some.tar", files))
    assert data.classes == ("cat", "dog")
    assert data.splits["train"].labels.tolist() == [1, 0]
    assert data.splits["train"].names() == ["some.tar/a/1", "some.tar/b/1"]


def test_several_labels_and_groups_come_from_json(tmp_path: Path) -> None:
    labels = [
        {"label": ["cat", "dog"], "group": "p1"},
        {"label": [], "group": "p2"},
        {"label": ["dog"], "unknown": ["cat"], "group": "p1"},
    ]
    files: dict[str, bytes] = {}
    for i, label in enumerate(labels):
        files |= {f"{i}.png": picture(i), f"{i}.json": json.dumps(label).encode()}
    data = shards(write_tar(tmp_path / "some.tar", files))
    images = expect_type(data.splits["train"], ShardImages)
    assert data.multi_label
    torch.testing.assert_close(
        images.labels, torch.tensor([[1, 1], [0, 0], [float("nan"), 1]]), equal_nan=True, rtol=0, atol=0
    )
    assert images.grouped == ["p1", "p2", "p1"]
    write_tar(tmp_path / "val.tar", files)
    write_tar(tmp_path / "train.tar", files)
    with pytest.raises(BadData, match=r"group p1 .* is in train and in (val|test)"):
        shards(tmp_path)
    source, other = DataConfig(source=f"wds:{tmp_path}"), Expected(("cat", "dog"), multi_label=True)
    with pytest.raises(BadData, match="is in train and in"):
        load(source, Path(), expected=Expected())
    evaluated = load(source, Path(), expected=other)  # nothing is learned of them
    assert {name: len(images) for name, images in evaluated.splits.items()} == {"train": 6, "val": 3}


@pytest.mark.parametrize(
    ("group", "said"), [(None, "a.tar has no group for 1, but others have one"), (0.5, "a group is a name or a whole")]
)
def test_a_group_is_of_all_images_or_of_none(tmp_path: Path, group: object, said: str) -> None:
    """Those without one would be one group, and go to one split together."""
    files: dict[str, bytes] = {}
    for i, each in enumerate(["p1", group, "p2"]):
        files |= {f"{i}.png": picture(i), f"{i}.json": json.dumps({"label": str(i), "group": each}).encode()}
    with pytest.raises(BadData, match=said):
        shards(write_tar(tmp_path / "a.tar", files))


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b"])
def test_a_class_that_is_no_line_is_not_written(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second line would be read as one more class, and the labels of the others as those before them."""
    images = ArrayImages(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    monkeypatch.setattr(
        "densekit.data.write_shards.load", lambda *_, **__: DataSet("made", (name, "c"), {"train": images})
    )
    with pytest.raises(InvalidInput, match="is not a line of text"):
        shard("digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_numbers_are_in_order_and_the_lines_of_classes_txt(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for i, label in enumerate((b"10", b"9", b"2")):
        files |= {f"{i}.png": picture(i), f"{i}.cls": label}
    data = shards(write_tar(tmp_path / "a.tar", files))
    assert (data.classes, data.splits["train"].labels.tolist()) == (("2", "9", "10"), [2, 1, 0])
    (tmp_path / "classes.txt").write_text("".join(f"class{i}\n" for i in range(11)))
    assert shards(tmp_path).splits["train"].labels.tolist() == [10, 9, 2]


def test_classes_are_those_for_training_or_of_all_splits_that_are_evaluated(tmp_path: Path) -> None:
    """Though another split comes first by name, and lacks some."""
    write_tar(tmp_path / "test-0.tar", {"a.png": picture(1), "a.cls": b"cat"})
    write_tar(tmp_path / "val-0.tar", {"b.png": picture(2), "b.cls": b"dog"})
    source, expected = DataConfig(source=f"wds:{tmp_path}"), Expected(("ape", "cat", "dog"))
    data = load(source, Path(), expected=expected)
    assert {split: images.labels.tolist() for split, images in data.splits.items()} == {"test": [0], "val": [1]}
    assert data.classes == ("cat", "dog")
    words = (b"ape", b"cat", b"dog")
    pairs = (((f"{i}.png", picture(3 + i)), (f"{i}.cls", word)) for i, word in enumerate(words))
    write_tar(tmp_path / "train-0.tar", dict(itertools.chain(*pairs)))
    for data in (load(source, Path()), load(source, Path(), expected=expected)):
        assert data.classes == ("ape", "cat", "dog")
        assert {split: images.labels.tolist() for split, images in data.splits.items()} == {
            "train": [0, 1, 2],
            "val": [2],
            "test": [1],
        }


def test_the_index_is_kept_and_made_anew_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "train-0.tar", samples(4))
    before = shards(path).splits["train"].fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        assert shards(path).splits["train"].fingerprint() == before
    write_tar(path, samples(5))
    os.utime(path, (1e9 + 1, 1e9 + 1))
    assert len(shards(path).splits["train"]) == 5
    assert shards(path).splits["train"].fingerprint() != before


def test_a_damaged_index_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_tar(tmp_path / "train-0.tar", samples(4))
    shards(path)
    (kept,) = (tmp_path / "cache" / "densekit" / "shards").iterdir()
    for content in (b"", b"PK\3\4 no zip", kept.read_bytes()[:-30]):
        kept.write_bytes(content)
        assert len(shards(path).splits["train"]) == 4
        assert kept.read_bytes() != content


WRONG: dict[str, tuple[dict[str, bytes], str]] = {
    "no label": ({"a.png": b"x"}, "no label for a"),
    "no image": ({"a.cls": b"1"}, "no image for a"),
    "two images": ({"a.png": b"x", "a.jpg": b"y", "a.cls": b"1"}, "two images for a"),
    "damaged JSON": ({"a.png": b"x", "a.json": b"{"}, "damaged"),
    "a label that is no text": ({"a.png": b"x", "a.cls": b"\xff\xfe"}, "damaged"),
    "labels that are neither names nor numbers": ({"a.png": b"x", "a.json": b"[{}]"}, "damaged"),
    "no label in JSON": ({"a.png": b"x", "a.json": b'{"caption": "a cat"}'}, "no label for a"),
    "nothing": ({}, "no samples"),
    "files apart": ({"a.png": b"x", "b.png": b"x", "a.cls": b"1", "b.cls": b"1"}, "no label for a"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    files, words = WRONG[case]
    with pytest.raises(BadData, match=words):
        shards(write_tar(tmp_path / "train-0.tar", files))


def test_compressed_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="in place"):
        shards(write_tar(tmp_path / "a.tar", samples(2), "w:gz"))
    with pytest.raises(BadData, match="no shards"):
        shards(tmp_path / "nothing-*.tar")
    (tmp_path / "text.tar").write_text("no tar at all, but longer than a block of one" * 30)
    with pytest.raises(BadData, match=r"text\.tar is no tar"):
        shards(tmp_path / "text.tar")


def test_a_shard_that_ends_anywhere_too_early_is_refused_by_name(tmp_path: Path) -> None:
    """Also between two files, where tarfile sees nothing wrong."""
    whole = write_tar(tmp_path / "b.tar", samples(3)).read_bytes()
    end = 3 * 4 * 512
    assert not any(whole[end:])
    for length in (0, 90, 512, 700, 1024, 4 * 512, 8 * 512 + 100, end - 1, end):
        (tmp_path / "c.tar").write_bytes(whole[:length])
        with pytest.raises(BadData, match=r"c\.tar"):
            shards(tmp_path / "c.tar")
    (tmp_path / "c.tar").write_bytes(whole + whole)
    with pytest.raises(BadData, match="goes on behind its end"):
        shards(tmp_path / "c.tar")


def test_flipped_bits_are_refused_or_change_one_image_or_label(tmp_path: Path) -> None:
    """Never fewer samples without a word, never a crash, and other samples stay what they were."""
    whole = write_tar(tmp_path / "b.tar", samples(4)).read_bytes()
    before = expect_type(shards(tmp_path / "b.tar").splits["train"], ShardImages)
    contents, labels = [before.encoded(i) for i in range(4)], before.labels.tolist()
    chance = random.Random(0)
    refused = 0
    for number in range(300):
        place, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        path = tmp_path / f"c{number}.tar"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            images = expect_type(shards(path).splits["train"], ShardImages)
        except BadData as error:
            refused += path.name in str(error)
            continue
        assert len(images) == 4
        same = [images.encoded(i) == contents[i] for i in range(4)]
        assert sum(same) >= 3
        assert sum(a == b for a, b in zip(images.labels.tolist(), labels, strict=True)) >= 1
    assert refused > 50


def test_a_bad_image_is_named_by_shard_and_key_and_counted(tmp_path: Path) -> None:
    files = samples(40) | {"00003.png": picture(3)[:50]}
    write_tar(tmp_path / "train-0.tar", files)
    images = shards(tmp_path).splits["train"]
    failures = [f for batch in Loader(images, preprocessing(), 10, workers=1).epoch() for f in batch.failures]
    assert [(str(path), error.code) for path, error in failures] == [(f"{tmp_path}/train-0.tar/00003", "truncated")]
    with pytest.raises(BadData, match=r"train-0\.tar/00003 ends too early.*data\.max_bad"):
        SkipList(0).add_all(failures)
    found = check(f"wds:{tmp_path}", settings={"data.val_fraction": 0.2})
    assert [found.scan.names[row] for row in found.scan.bad] == ["train-0.tar/00003"]
    assert not found.passed


def test_a_shard_that_changes_while_it_is_read_is_not_read_at_old_places(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "train-0.tar", samples(6))
    images = expect_type(shards(path).splits["train"], ShardImages)
    module._opened.cache_clear()
    write_tar(path, samples(6, first=100))
    os.utime(path, (1e9 + 5, 1e9 + 5))
    with pytest.raises(BadImage, match=r"train-0\.tar/00000.*changed since the start"):
        images.encoded(0)
    path.unlink()
    with pytest.raises(BadImage, match="its shard is gone"):
        images.encoded(0)


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", samples(6, classes=3))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(BadData, match="00002 is none of 2 classes"):
        shards(tmp_path)


def test_written_shards_hold_the_same_files_and_are_divided_alike(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    config = DataConfig(source=str(photos), val_fraction=0.3, test_fraction=0.3)
    files = load(config, tmp_path)
    counts = shard(str(photos), tmp_path / "out", shard_bytes=20_000)
    assert counts["train"][0] > 2
    assert counts["train"][1] == 24
    read = shards(tmp_path / "out")
    assert read.classes == ("cat", "dog")
    divided = divide(read, config)
    for split, images in divide(files, config).splits.items():
        ours = divided.splits[split]
        assert isinstance(images, FileImages)
        assert isinstance(ours, ShardImages)
        theirs = {(path.read_bytes(), label) for path, label in zip(images.paths, images.labels.tolist(), strict=True)}
        assert {(ours.encoded(i), label) for i, label in enumerate(ours.labels.tolist())} == theirs
    # To the byte, so that a copy can be compared with another.
    shard(str(photos), tmp_path / "again", shard_bytes=20_000)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    with pytest.raises(InvalidInput, match="exists; name a new folder"):
        shard(str(photos), tmp_path / "out")


def test_several_labels_unknown_ones_and_patients_survive_sharding(tmp_path: Path, xrays: Path) -> None:
    from tests.data.xrays import SETTINGS

    settings = {key: value for key, value in SETTINGS.items() if key.startswith("data.")}
    config = {key.removeprefix("data."): value for key, value in settings.items()}
    table = load(DataConfig.model_validate({"source": f"csv:{xrays}"} | config), tmp_path)
    shard(f"csv:{xrays}", tmp_path / "out", settings=settings)
    read = shards(tmp_path / "out")
    assert read.classes == table.classes

    def rows(data: DataSet, kind: type[FileImages | ShardImages]) -> list[tuple[bytes, str, str]]:
        images = expect_type(data.splits["train"], kind)
        contents = [
            Path(e).read_bytes() if not isinstance(e := images.encoded(i), bytes) else e for i in range(len(images))
        ]
        return sorted(zip(contents, map(str, images.labels.tolist()), images.grouped or (), strict=True))

    assert rows(read, ShardImages) == rows(table, FileImages)


def test_digits_go_through_shards_without_loss(tmp_path: Path) -> None:
    counts = shard("digits", tmp_path / "out")
    assert counts == {"train": (1, 1797)}
    arrays = expect_type(load(DataConfig(source="digits"), tmp_path).splits["train"], ArrayImages)
    images = shards(tmp_path / "out").splits["train"]
    plain = Preprocessing(channels=1, size=(8, 8), resize=8, mean=(0.0,), std=(1.0,))
    seen = sorted(
        (tuple((x * 255).round().flatten().int().tolist()), label)
        for batch in Loader(images, plain, 100).epoch()
        for x, label in zip(batch.images, batch.targets.tolist(), strict=True)
    )
    theirs = zip(arrays.pixels.flatten(1).tolist(), arrays.labels.tolist(), strict=True)
    assert seen == sorted((tuple(pixels), label) for pixels, label in theirs)


def test_a_failed_write_leaves_no_shard_that_is_not_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = ArrayImages(torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8), torch.arange(20) % 4)
    written = write_shards(arrays, tmp_path, "train", 8_000, SkipList(0))
    first, _ = next(written)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        next(written)
    assert list(tmp_path.iterdir()) == [first]


def test_every_sample_is_seen_once_over_processes_and_stops(tmp_path: Path) -> None:
    """Two ranks; one epoch that is left in its middle and gone on with."""
    for number in range(3):
        write_tar(tmp_path / f"train-{number}.tar", samples(37, first=37 * number))
    images = shards(tmp_path).splits["train"]
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


def test_a_run_on_shards_that_is_stopped_in_an_epoch_ends_in_the_same_weights(tmp_path: Path) -> None:
    from tests.faults.command import state_of, train_until

    shard(str(write_photos(tmp_path / "photos")), tmp_path / "out", shard_bytes=20_000)
    settings = {
        "data.workers": 1, "batch_size": 4, "data.image_size": 16, "data.test_fraction": 0.2, "augment.crop": "resized",
    }  # fmt: skip
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 2, "settings": settings}
    whole = densekit.train(f"wds:{tmp_path}/out", out=tmp_path / "whole", **words)
    train_until(3, f"wds:{tmp_path}/out", out=tmp_path / "cut", **words)
    densekit.api.resume(tmp_path / "cut")
    assert state_of(tmp_path / "cut") == state_of(tmp_path / "whole")
    assert (tmp_path / "whole" / "split.csv").read_text().count("/0") >= 24
    assert densekit.evaluate(whole.folder, split="test").top1 == whole.result.top1
    pattern = f"wds:{tmp_path}/out/train-*.tar"  # of the same shards
    assert densekit.evaluate(whole.folder, pattern).count == whole.result.count
    assert densekit.evaluate(whole.folder, pattern, split="all").count == 24


def test_shards_of_one_split_are_evaluated_as_that_split(tmp_path: Path) -> None:
    """Training takes them as a whole to divide."""
    settings = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
    photos = write_photos(tmp_path / "photos")
    run = densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    write_photos(tmp_path / "new" / "train", count=5, size=50)
    write_photos(tmp_path / "new" / "test", count=4, size=52)
    shard(tmp_path / "new", tmp_path / "shards")
    pattern = f"wds:{tmp_path}/shards/test-*.tar"
    for split in (None, "test"):
        result = densekit.evaluate(run.folder, pattern, split=split)
        assert (result.split, result.count) == ("test", 8)
    with pytest.raises(InvalidInput, match="has no val split, only test; use --split test or --split all"):
        densekit.evaluate(run.folder, pattern, split="val")
    assert set(load(DataConfig(source=pattern), tmp_path).splits) == {"train"}
