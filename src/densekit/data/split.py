"""Splits by content: names of files play no part, and identical images are in one split.

Stratified splits are made by `stratify`. Without it each image's hash decides, so that adding or renaming files moves
no other file; of images in groups the group's hash decides. A unit below is a group, or identical images.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from densekit.config import DataConfig
from densekit.data.sets import DataSet, Images, class_counts, groups_of, hashes
from densekit.data.stratify import TEST, TRAIN, VAL, assign, units_of
from densekit.errors import BadData
from densekit.formatting import counted, listed


def divide(data: DataSet, config: DataConfig) -> DataSet:
    """`train`, plus `val` unless the protocol is final, plus `test`; identical images always land together.

    Splits that the source brings are kept. `final` trains on what `tune` would have held out. With `config.stratify`
    every class is divided by the same shares; the result's `division` names classes that a split lacks.
    """
    splits = _stratified(data, config) if config.stratify else _by_hash(data, config)
    for name, images in splits.items():
        if not len(images):
            raise BadData(
                f"no images are left for the {name} split of {data.name}: {_amount(data.splits['train'])} are too few "
                "to hold some out; add some, or bring your own train, val and test splits"
            )
    made = {name: images for name, images in splits.items() if name not in data.splits}
    return replace(data, splits=splits, division=_lacking(made, data))


def _stratified(data: DataSet, config: DataConfig) -> dict[str, Images]:
    """By the labels of each unit: see `stratify`."""
    splits, images = dict(data.splits), data.splits["train"]
    divided = "test" in splits or "val" in splits
    test = 0.0 if divided else config.test_fraction
    val: float | int = 0.0
    if config.protocol == "tune" and "val" not in splits:
        val = config.val_fraction if config.val_count is None else config.val_count
    made = {TRAIN: "train", **({} if divided else {TEST: "test"})}
    if config.protocol == "tune" and "val" not in splits:
        made[VAL] = "val"
    if len(made) > 1:
        units, member = units_of(_keys(images, salt=1), images.labels, len(data.classes))
        split = assign(units, test, val)[member]
        if isinstance(val, int) and (split == VAL).sum() < val and groups_of(images) is None:
            raise BadData(f"cannot hold out {val} of {len(images)} images; lower data.val_count")
        splits |= {name: images.subset(np.flatnonzero(split == code)) for code, name in made.items()}
    if config.limit is not None and config.limit < len(splits["train"]):
        units, member = units_of(_keys(splits["train"], salt=3), splits["train"].labels, len(data.classes))
        rank = np.empty(len(units.keys), np.int64)
        rank[units.order] = np.arange(len(units.keys))
        first = np.argsort(rank[member], kind="stable")[: config.limit]
        splits["train"] = splits["train"].subset(np.sort(first))
    return splits


def _lacking(made: Mapping[str, Images], data: DataSet) -> tuple[str, ...]:
    """A line for each split that densekit made without an image of some class that the data have."""
    lines = []
    there = np.array(class_counts(data.splits["train"], data.classes)) > 0
    for split, images in made.items():
        counts = np.array(class_counts(images, data.classes))
        names = [data.classes[i] for i in np.flatnonzero(there & (counts == 0))]
        if names:
            lines.append(
                f"no {split} image of {counted(len(names), 'class', 'classes')} with few images: {listed(names)}"
            )
    return tuple(lines)


def _by_hash(data: DataSet, config: DataConfig) -> dict[str, Images]:
    """Each image by its hash alone, as runs without `stratify` in their config.yaml have it."""
    splits = dict(data.splits)
    if "test" not in splits and "val" not in splits:
        # A unit is a group, or images that are identical. Leave one for training and, unless data.val_count takes
        # images regardless of units, one for validation.
        by_unit = config.val_count is None or groups_of(splits["train"]) is not None
        leave = 2 if config.protocol == "tune" and by_unit else 1
        # Another salt than the validation's, or the same images would be chosen again.
        splits["train"], splits["test"] = hold_out(splits["train"], config.test_fraction, salt=1, leave=leave)
    if config.protocol == "tune" and "val" not in splits:
        wanted = config.val_count if config.val_count is not None else config.val_fraction
        splits["train"], splits["val"] = hold_out(splits["train"], wanted, salt=2)
    if config.limit is not None and config.limit < len(splits["train"]):
        first = np.argsort(_keys(splits["train"], salt=3), kind="stable")[: config.limit]
        splits["train"] = splits["train"].subset(np.sort(first))
    return splits


def _amount(images: Images) -> str:
    """How much there is to divide."""
    total, groups = counted(len(images), "training image"), groups_of(images)
    return total if groups is None else f"{total} in {counted(len(set(groups)), 'group')}, which stay whole,"


def hold_out(images: Images, share: float | int, salt: int, leave: int = 1) -> tuple[Images, Images]:
    """(rest, held out). `share` is a fraction by hash, or an exact count of the smallest hashes.

    By fraction every class with two or more different images keeps one on each side, where each image has one class
    and no group. Otherwise at least one unit is held out and at least `leave` units are kept, if there are enough.
    Groups are held out whole, so that a count may come out higher.
    """
    keys = _keys(images, salt)
    grouped = groups_of(images) is not None
    if isinstance(share, int):
        if share >= len(images):
            raise BadData(f"cannot hold out {share} of {len(images)} images; lower data.val_count")
        out = np.zeros(len(images), dtype=bool)
        out[np.argsort(keys, kind="stable")[:share]] = True
        if grouped:
            out = np.isin(keys, keys[out])
            if out.all():
                _keep_units(out, keys, leave)
    else:
        out = keys < np.uint64(share * 2**64)
        if share and images.labels.ndim == 1 and not grouped:
            _keep_classes(out, keys, images.labels.numpy())
        elif share:
            _keep_units(out, keys, leave)
    return images.subset(np.flatnonzero(~out)), images.subset(np.flatnonzero(out))


def _keep_classes(out: NDArray[np.bool_], keys: NDArray[np.uint64], labels: NDArray[np.int64]) -> None:
    """Changes `out` so that each class with two different images has one on each side."""
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        low, high = keys[members].min(), keys[members].max()
        if low != high:
            out[members[keys[members] == low]] = True
            out[members[keys[members] == high]] = False


def _keep_units(out: NDArray[np.bool_], keys: NDArray[np.uint64], leave: int) -> None:
    """Changes `out` so that it has the unit of the lowest key and not the `leave` of the highest, if there are more."""
    units = np.unique(keys)
    if len(units) > leave:
        out |= keys == units[0]
        out &= keys < units[-leave]


def _keys(images: Images, salt: int) -> NDArray[np.uint64]:
    """Uniform 64-bit keys from content or group: the last steps of splitmix64, over the salted hash."""
    groups = groups_of(images)
    key = images.content_hashes() if groups is None else hashes(group.encode() for group in groups)
    with np.errstate(over="ignore"):
        key = key + np.uint64(salt) * np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))
