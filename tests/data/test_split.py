"""Splits follow content."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densekit.config import DataConfig
from densekit.data import DataSet, load
from densekit.data.sets import ArrayImages, FileImages, groups_of
from densekit.data.split import divide, hold_out
from densekit.errors import BadData


def contents(source: Path) -> dict[str, set[bytes]]:
    data = divide(load(DataConfig(source=str(source)), Path()), DataConfig(source=str(source), val_fraction=0.3))
    return {name: {path.read_bytes() for path in images.paths} for name, images in data.splits.items()}


def test_renaming_and_adding_files_moves_no_other_file(photos: Path, tmp_path: Path) -> None:
    before = contents(photos)
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        path.rename(path.with_name(f"renamed{97 - i}.png"))
    shutil.copy(next(photos.rglob("*.png")), photos / "cat" / "copy.png")
    assert contents(photos) == before


def test_splits_are_disjoint_and_complete(photos: Path) -> None:
    splits = contents(photos)
    assert set(splits) == {"train", "val", "test"}
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == 24


def test_every_class_is_on_both_sides_of_a_fractional_split() -> None:
    pixels = torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1)
    images = ArrayImages(pixels, torch.arange(60) % 20)
    rest, out = hold_out(images, 0.1, salt=1)
    assert len(rest.labels.unique()) == len(out.labels.unique()) == 20


def test_identical_images_land_together() -> None:
    images = ArrayImages(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), torch.arange(50) % 2)
    rest, out = hold_out(images, 0.5, salt=1)
    assert {len(rest), len(out)} == {0, 50}


def test_a_count_is_exact_and_a_share_is_close() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5000, 1, 4, 4), dtype=np.uint8))
    images = ArrayImages(pixels, torch.zeros(5000, dtype=torch.int64))
    assert len(hold_out(images, 123, salt=2)[1]) == 123
    assert abs(len(hold_out(images, 0.1, salt=2)[1]) - 500) < 80


def test_the_final_protocol_holds_nothing_out_of_train() -> None:
    config = DataConfig(source="synthetic:8x8x1:2:100", protocol="final", test_fraction=0.2)
    data = divide(load(config, Path()), config)
    assert set(data.splits) == {"train", "test"}
    assert sum(len(images) for images in data.splits.values()) == 100


def test_holding_out_everything_is_refused() -> None:
    images = ArrayImages(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(BadData, match="cannot hold out 5 of 5"):
        hold_out(images, 5, salt=1)


def test_dividing_and_fingerprints_read_each_file_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(source=str(photos))
    data = load(config, Path())
    alone = divide(data, config).splits["val"].fingerprint()
    read: list[Path] = []
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read.append(path)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    splits = divide(load(config, Path()), config).splits
    assert splits["val"].fingerprint() == alone
    for images in splits.values():
        images.fingerprint()
    assert len(read) == len(set(read)) == 24


def grouped(sizes: list[int], first: int = 0) -> FileImages:
    """Images of groups of these sizes, which no file has."""
    groups = [str(first + i) for i, size in enumerate(sizes) for _ in range(size)]
    paths = tuple(Path(f"{group}-{i}.png") for i, group in enumerate(groups))
    return FileImages(paths, torch.zeros(len(groups), 2), Path(), tuple(groups))


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=40)
SHARES = st.sampled_from([0.02, 0.1, 0.3, 0.9])


@given(SIZES, st.integers(0, 10**6), SHARES, SHARES)
@settings(max_examples=200, deadline=None)
def test_no_split_is_empty_where_there_are_enough_groups_and_full_ones_stay(
    sizes: list[int], first: int, test: float, val: float
) -> None:
    images = grouped(sizes, first)
    config = DataConfig(source="x", test_fraction=test, val_fraction=val)
    data = DataSet("x", ("a", "b"), {"train": images})
    if len(sizes) < 3:
        with pytest.raises(BadData, match=rf"{len(sizes)} groups? with {sum(sizes)} training image"):
            divide(data, config)
        return
    splits = divide(data, config).splits
    assert set(splits) == {"train", "val", "test"}
    members = [set(groups_of(each) or ()) for each in splits.values()]
    assert all(members)
    assert sum(map(len, members)) == len(set().union(*members)) == len(sizes)
    rest, by_hash = hold_out(images, test, 1)
    expected = {"test": by_hash} | dict(zip(("train", "val"), hold_out(rest, val, 2), strict=True))
    if all(map(len, expected.values())):
        assert {name: each.names() for name, each in splits.items()} == {
            name: each.names() for name, each in expected.items()
        }


@given(st.integers(3, 12), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_few_images_of_several_labels_fill_every_split(count: int, seed: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8))
    data = DataSet("x", ("a", "b"), {"train": ArrayImages(pixels, torch.ones(count, 2))})
    splits = divide(data, DataConfig(source="x")).splits
    assert all(map(len, splits.values()))
    assert sum(map(len, splits.values())) == count


@given(SIZES.filter(lambda sizes: len(sizes) > 1), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_a_count_of_grouped_images_leaves_a_group_to_train(sizes: list[int], first: int) -> None:
    images = grouped(sizes, first)
    data = DataSet("x", ("a", "b"), {"train": images, "test": images})
    splits = divide(data, DataConfig(source="x", val_count=sum(sizes) - 1)).splits
    assert all(map(len, splits.values()))
