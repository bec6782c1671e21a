"""Splits follow content."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from densekit.config import DataConfig
from densekit.data import load
from densekit.data.sets import ArrayImages, DataSet, FileImages, groups_of
from densekit.data.split import _keys, divide, hold_out
from densekit.errors import BadData
from tests.narrow import expect_type


def contents(source: Path) -> dict[str, set[bytes]]:
    data = divide(load(DataConfig(source=str(source)), Path()), DataConfig(source=str(source), val_fraction=0.3))
    return {
        name: {path.read_bytes() for path in expect_type(images, FileImages).paths}
        for name, images in data.splits.items()
    }


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


CONFIG = DataConfig(source="csv:x.csv")
Names = st.lists(st.text(min_size=1), min_size=3, max_size=30, unique=True)


def table_of(groups: list[str], each: int = 2) -> DataSet:
    """A table with `each` images of every group; no file is read where groups decide."""
    names = tuple(group for group in groups for _ in range(each))
    paths = tuple(Path(f"{i}.png") for i in range(len(names)))
    images = FileImages(paths, torch.arange(len(names)) % 2, Path(), names)
    return DataSet("csv:x.csv", ("a", "b"), {"train": images})


def homes(data: DataSet, config: DataConfig = CONFIG) -> dict[str, set[str]]:
    """The groups of each split."""
    return {name: set(groups_of(images) or ()) for name, images in divide(data, config).splits.items()}


@given(Names, st.sampled_from([{}, {"test_fraction": 0.9}, {"val_fraction": 0.9}, {"val_count": 1}]))
def test_three_groups_or_more_are_enough_for_every_split(groups: list[str], changes: dict[str, float]) -> None:
    found = homes(table_of(groups), DataConfig(source="csv:x.csv", **changes))
    assert all(found[split] for split in ("train", "val", "test"))
    assert sorted(group for split in found.values() for group in split) == sorted(groups)


def test_two_groups_are_enough_where_nothing_is_held_out_for_validation() -> None:
    for i in range(20):
        found = homes(table_of([f"{i}", f"{i + 1}"]), DataConfig(source="csv:x.csv", protocol="final"))
        assert {name: len(groups) for name, groups in found.items()} == {"train": 1, "test": 1}


@given(Names)
@example([f"patient{i}" for i in range(40)])  # for certain one with a group in every split
def test_groups_are_divided_by_their_hashes_alone_where_that_leaves_no_split_empty(groups: list[str]) -> None:
    data = table_of(groups, each=1)
    test = _keys(data.splits["train"], salt=1) < np.uint64(0.1 * 2**64)
    val = ~test & (_keys(data.splits["train"], salt=2) < np.uint64(0.1 * 2**64))
    if test.any() and val.any() and not (test | val).all():
        found = homes(data)
        assert found["test"] == {groups[i] for i in np.flatnonzero(test)}
        assert found["val"] == {groups[i] for i in np.flatnonzero(val)}


def test_the_hash_of_a_group_never_changes() -> None:
    """Runs of earlier versions must find their splits again."""
    found = homes(table_of([f"patient{i}" for i in range(40)]))
    assert found["test"] == {f"patient{i}" for i in (5, 11, 22, 32, 39)}
    assert found["val"] == {"patient15", "patient23"}


def test_a_new_group_moves_few_others() -> None:
    for count in range(5, 40):
        groups = [f"patient{i}" for i in range(count + 1)]
        before, after = homes(table_of(groups[:-1])), homes(table_of(groups))
        moved = [group for name in before for group in before[name] - after[name]]
        # The one that is held out because no hash is small enough, for test and for validation.
        assert len(moved) <= 2


@given(st.integers(3, 30), st.integers(0, 1000))
def test_three_different_images_of_several_labels_are_enough_for_every_split(count: int, seed: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8))
    data = DataSet("csv:x.csv", ("a", "b"), {"train": ArrayImages(pixels, torch.zeros(count, 2))})
    assert set(divide(data, CONFIG).splits) == {"train", "val", "test"}


def test_a_count_that_would_take_every_group_leaves_one_to_train() -> None:
    found = homes(table_of(["p1", "p2", "p3"], each=5), DataConfig(source="csv:x.csv", val_count=9))
    assert all(found.values())


def test_too_few_groups_are_counted() -> None:
    with pytest.raises(BadData, match=r"10 training images in 2 groups, which stay whole, are too few"):
        divide(table_of(["p1", "p2"], each=5), CONFIG)
