"""Stratified splits have every class by the same shares, and few images move when some are added."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit
from torch import Tensor

from densekit.config import DataConfig
from densekit.data import load
from densekit.data.sets import ArrayImages, DataSet, FileImages, Images, groups_of
from densekit.data.split import divide
from densekit.data.stratify import TEST, TRAIN, VAL, assign, units_of
from densekit.errors import BadData
from tests.narrow import expect_type

Counts = st.lists(st.integers(1, 60), min_size=2, max_size=5)
Share = st.floats(0.05, 0.4)


def keys_of(count: int, seed: int) -> NDArray[np.uint64]:
    """Different random 64-bit hashes, as contents or groups have."""
    return np.random.default_rng(seed).choice(2**62, count, replace=False).astype(np.uint64)


def assigned(
    keys: NDArray[np.uint64], labels: Tensor, classes: int, test: float, val: float | int
) -> NDArray[np.int64]:
    """The split of each image."""
    units, member = units_of(keys, labels, classes)
    return assign(units, test, val)[member]


def images_of(labels: Tensor, seed: int = 0) -> ArrayImages:
    """Different images with these labels."""
    numbers = keys_of(len(labels), seed).view(np.uint8).reshape(-1, 1, 2, 4)
    return ArrayImages(torch.from_numpy(numbers.copy()), labels)


def data_of(images: Images, classes: int) -> DataSet:
    return DataSet("made", tuple(f"c{i}" for i in range(classes)), {"train": images})


def config_of(**changes: Any) -> DataConfig:
    return DataConfig(source="csv:x.csv", stratify=True, **changes)


@given(Counts, Share, Share, st.integers(0, 99))
@example([1, 2], 0.25, 0.25, 0)
def test_every_class_is_within_one_image_of_its_quota_in_every_split(
    counts: list[int], test: float, val: float, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    split = assigned(keys_of(len(labels), seed), labels, len(counts), test, val)
    quotas = {TEST: test, VAL: (1 - test) * val, TRAIN: (1 - test) * (1 - val)}
    for label, count in enumerate(counts):
        of_class = split[labels.numpy() == label]
        assert (of_class == TRAIN).sum() >= 1
        assert (of_class == TEST).sum() >= min(1, count - 1)
        assert (of_class == VAL).sum() >= min(1, max(0, count - 2))
        if count * min(quotas.values()) >= 1:
            for code, share in quotas.items():
                assert abs((of_class == code).sum() - share * count) <= 1 + 1e-9


def test_the_counts_are_those_of_scikit_learn() -> None:
    """Both round each class's quota; where it is a whole number, there is nothing to round."""
    labels = np.repeat(np.arange(4), [80, 30, 250, 10])
    split = assigned(keys_of(len(labels), 0), torch.from_numpy(labels), 4, 0.1, 0.0)
    ours = np.bincount(labels[split == TEST])
    (_, out), *_ = StratifiedShuffleSplit(1, test_size=0.1, random_state=0).split(labels, labels)
    assert ours.tolist() == np.bincount(labels[out]).tolist() == [8, 3, 25, 1]


@given(Counts, st.lists(st.integers(0, 4), min_size=1, max_size=6), Share, Share, st.integers(0, 99))
def test_adding_images_moves_at_most_two_others_each(
    counts: list[int], added: list[int], test: float, val: float, seed: int
) -> None:
    """One over each of the two borders between train, val and test."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)] + [torch.tensor(added)])
    keys = keys_of(len(labels), seed)
    old = len(labels) - len(added)
    before = assigned(keys[:old], labels[:old], 5, test, val)
    after = assigned(keys, labels, 5, test, val)
    assert (before != after[:old]).sum() <= 2 * len(added)


Rows = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=12, max_size=80)


@settings(max_examples=50)
@given(Rows, st.integers(1, 3), Share, Share, st.integers(0, 99))
def test_adding_images_of_several_labels_moves_few_others(
    rows: list[list[bool]], added: int, test: float, val: float, seed: int
) -> None:
    """Over each border at most as many as an image has labels, while the order of the classes by frequency stays.

    And one for each label that has too few images for a share of them.
    """
    labels = torch.tensor(rows).float()
    old = len(rows) - added
    orders = [units_of(keys_of(n, seed), labels[:n], 4)[0].rarest.tolist() for n in range(old, len(rows) + 1)]
    assume(all(order == orders[0] for order in orders))
    keys = keys_of(len(rows), seed)
    before, after = assigned(keys[:old], labels[:old], 4, test, val), assigned(keys, labels, 4, test, val)
    most = max(1, int(labels.sum(1).max()))
    few = sum(count * min(test, (1 - test) * val) < 1 for count in labels[:old].sum(0).tolist())
    assert (before != after[:old]).sum() <= 2 * added * most + 2 * few


def xray_labels(count: int, seed: int) -> Tensor:
    """(count, 6): findings as rare as 2 % and as common as 50 %, of which some go together."""
    random = np.random.default_rng(seed)
    shares = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5])
    there = random.random((count, 6)) < shares
    there[:, 4] |= there[:, 1] & (random.random(count) < 0.7)
    return torch.from_numpy(there).float()


@pytest.mark.parametrize("seed", range(5))
def test_every_one_of_several_labels_has_its_share(seed: int) -> None:
    labels = xray_labels(600, seed)
    split = assigned(keys_of(600, seed), labels, 6, 0.2, 0.0)
    counts, test = labels.sum(0).numpy(), labels[split == TEST].sum(0).numpy()
    assert (abs(test - 0.2 * counts) <= 3.5).all()  # by chance alone: 2.2 to 6 in one standard deviation
    assert abs(test - 0.2 * counts)[counts.argmin()] <= 1


def by_patient(counts: list[list[int]], labels: list[int]) -> FileImages:
    """FileImages of patients: of class i those with so many images as `counts[i]` says."""
    groups, classes = [], []
    for label, sizes in zip(labels, counts, strict=True):
        for patient, size in enumerate(sizes):
            groups += [f"{label}/{patient}"] * size
            classes += [label] * size
    paths = tuple(Path(f"{i}.png") for i in range(len(groups)))
    return FileImages(paths, torch.tensor(classes), Path(), tuple(groups))


@given(st.lists(st.lists(st.integers(1, 9), min_size=3, max_size=25), min_size=2, max_size=3))
def test_no_group_is_divided_and_classes_are_within_one_group_of_their_quota(sizes: list[list[int]]) -> None:
    images = by_patient(sizes, list(range(len(sizes))))
    splits = divide(data_of(images, len(sizes)), config_of(test_fraction=0.2, val_fraction=0.2)).splits
    groups = {name: set(groups_of(part) or ()) for name, part in splits.items()}
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == sum(map(len, sizes))
    for label, of_class in enumerate(sizes):
        for name, share in (("test", 0.2), ("val", 0.16), ("train", 0.64)):
            count = int((splits[name].labels == label).sum())
            assert count >= 1
            if len(of_class) < 8:  # where a share is less than a group, one is taken all the same
                continue
            assert abs(count - share * sum(of_class)) <= max(of_class)


@settings(max_examples=40)
@given(st.lists(st.text(min_size=1), min_size=3, max_size=30, unique=True), st.sampled_from([0.1, 0.5, 0.9]))
def test_three_groups_or_more_are_enough_for_every_split(groups: list[str], share: float) -> None:
    names = tuple(group for group in groups for _ in range(2))
    paths = tuple(Path(f"{i}.png") for i in range(len(names)))
    data = data_of(FileImages(paths, torch.arange(len(names)) % 2, Path(), names), 2)
    for changes in ({"test_fraction": share}, {"val_fraction": share}, {"val_count": 1}, {"val_count": 5}):
        splits = divide(data, config_of(**changes)).splits
        assert set(splits) == {"train", "val", "test"}
        assert all(set(part.labels.tolist()) == {0, 1} for part in splits.values())


def test_no_class_is_taken_from_training_to_fill_another_split() -> None:
    with pytest.raises(BadData, match=r"6 training images in 3 groups, which stay whole, are too few"):
        divide(data_of(by_patient([[2], [2], [2]], [0, 1, 2]), 3), config_of())


@pytest.mark.parametrize("changes", [{}, {"val_count": 7}, {"val_fraction": 0.5}])
def test_identical_images_are_in_one_split_whatever_their_classes(changes: dict[str, Any]) -> None:
    once = images_of(torch.arange(40) % 2)
    twice = ArrayImages(once.pixels.repeat(2, 1, 1, 1), torch.cat((once.labels, (once.labels + torch.arange(40)) % 2)))
    splits = divide(data_of(twice, 2), config_of(**changes)).splits
    hashes = [set(part.content_hashes().tolist()) for part in splits.values()]
    assert sum(map(len, hashes)) == len(set().union(*hashes)) == 40


def test_classes_with_too_few_images_are_named() -> None:
    labels = torch.tensor([0] * 40 + [1] * 40 + [2] + [3] * 2)
    divided = divide(data_of(images_of(labels), 4), config_of())
    assert divided.division == (
        "no test image of 1 class with few images: c2",
        "no val image of 2 classes with few images: c2, c3",
    )
    assert divided.division[0] in divided.remarks()
    assert divided.splits["train"].labels.unique().tolist() == [0, 1, 2, 3]


@given(Counts, st.integers(1, 200), st.integers(0, 99))
def test_a_count_is_exact_and_in_proportion(counts: list[int], wanted: int, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    test = DataSet("made", ("a", "b", "c", "d", "e"), {"train": images_of(labels, seed), "test": images_of(labels)})
    if wanted > len(labels) - len(counts):
        with pytest.raises(BadData, match=f"cannot hold out {wanted} of {len(labels)} images"):
            divide(test, config_of(val_count=wanted))
        return
    splits = divide(test, config_of(val_count=wanted)).splits
    assert len(splits["val"]) == wanted
    assert set(splits["train"].labels.tolist()) == set(range(len(counts)))
    held = np.bincount(splits["val"].labels.numpy(), minlength=len(counts))
    quotas = np.array(counts) * wanted / len(labels)
    if wanted <= len(labels) // 2:  # where no class is kept from giving its share
        assert (abs(held - quotas) <= 1.5).all()


def test_a_limit_is_exact_and_in_proportion() -> None:
    labels = torch.tensor([0] * 300 + [1] * 100)
    train = divide(data_of(images_of(labels), 2), config_of(limit=40)).splits["train"]
    assert np.bincount(train.labels.numpy()).tolist() == [30, 10]


def test_the_final_protocol_tests_on_the_same_images() -> None:
    data = data_of(images_of(torch.arange(200) % 3), 3)
    tuned, final = (divide(data, config_of(protocol=protocol)).splits for protocol in ("tune", "final"))
    assert set(final) == {"train", "test"}
    assert final["test"].fingerprint() == tuned["test"].fingerprint()


def test_renaming_and_moving_files_changes_no_split(photos: Path) -> None:
    def contents() -> dict[str, set[bytes]]:
        config = DataConfig(source=str(photos), stratify=True, val_fraction=0.3)
        data = divide(load(config, Path()), config)
        return {
            name: {path.read_bytes() for path in expect_type(images, FileImages).paths}
            for name, images in data.splits.items()
        }

    before = contents()
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        path.rename(path.with_name(f"renamed{97 - i}.png"))
    assert contents() == before


def test_many_images_of_many_classes_are_divided_in_seconds() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 1000, 200_000))
    split = assigned(keys_of(200_000, 0), labels, 1000, 0.1, 0.1)
    assert abs((split == TEST).sum() - 20_000) < 300
