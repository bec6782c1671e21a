"""Splits by content: an image's bytes decide where it belongs, so adding or renaming files moves no other file.

Of images in groups the group decides, and nothing else.
"""

import numpy as np
from numpy.typing import NDArray

from densekit.config import DataConfig
from densekit.data.sets import DataSet, Images, groups_of, hashes
from densekit.errors import BadData
from densekit.words import counted


def divide(data: DataSet, config: DataConfig) -> DataSet:
    """`train`, plus `val` unless the protocol is final, plus `test`; identical images always land together.

    Splits that the source brings are kept. `final` trains on what `tune` would have held out. Raises BadData where a
    split would be empty.
    """
    splits = _held_out(data, config, least=False)
    if not all(map(len, splits.values())):
        splits = _held_out(data, config, least=True)
    if config.limit is not None and config.limit < len(splits["train"]):
        first = np.argsort(_keys(splits["train"], salt=3), kind="stable")[: config.limit]
        splits["train"] = splits["train"].subset(np.sort(first))
    for name, images in splits.items():
        if not len(images):
            raise BadData(_too_few(data, name))
    return data.with_splits(splits)


def _held_out(data: DataSet, config: DataConfig, *, least: bool) -> dict[str, Images]:
    """The splits, which may be empty. `least`: none is, where there are enough groups or different images."""
    splits = dict(data.splits)
    tune = config.protocol == "tune" and "val" not in splits
    if "test" not in splits and "val" not in splits:
        # Another salt than the validation's, or the same images would be chosen again.
        kept = (1 + tune) * least
        splits["train"], splits["test"] = hold_out(splits["train"], config.test_fraction, salt=1, kept=kept)
    if tune:
        wanted = config.val_count if config.val_count is not None else config.val_fraction
        splits["train"], splits["val"] = hold_out(splits["train"], wanted, salt=2, kept=int(least))
    return splits


def _too_few(data: DataSet, split: str) -> str:
    images = data.splits["train"]
    groups = groups_of(images)
    number, more = counted(len(images), "training image"), "images"
    if groups is not None:
        number, more = f"{counted(len(set(groups)), 'group')} with {number}", "groups"
    return (
        f"no images are left for the {split} split of {data.name}: {number} are too few to hold some out, or "
        f"data.val_fraction or data.test_fraction is 0; add {more}, or bring your own train, val and test splits"
    )


def hold_out(images: Images, share: float | int, salt: int, *, kept: int = 0) -> tuple[Images, Images]:
    """(rest, held out). `share` is a fraction by hash, or an exact count of the smallest hashes.

    By fraction every class with two or more different images keeps one on each side, where each image has one class
    and no group. Groups are held out whole, so that a count may come out higher. With `kept`, if there are more groups
    or different images than that, at least one is held out and at least `kept` are in the rest.
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
    else:
        out = keys < np.uint64(share * 2**64)
        for label in np.unique(images.labels.numpy()) if share and images.labels.ndim == 1 and not grouped else ():
            members = np.flatnonzero(images.labels.numpy() == label)
            low, high = keys[members].min(), keys[members].max()
            if low != high:
                out[members[keys[members] == low]] = True
                out[members[keys[members] == high]] = False
    different = np.unique(keys)
    if kept and share and len(different) > kept:
        if len(np.unique(keys[~out])) < kept:
            out &= keys < different[-kept]
        if not out.any():
            out = keys == different[0]
    return images.subset(np.flatnonzero(~out)), images.subset(np.flatnonzero(out))


def _keys(images: Images, salt: int) -> NDArray[np.uint64]:
    """Uniform 64-bit keys from content or group: the last steps of splitmix64, over the salted hash."""
    groups = groups_of(images)
    key = images.content_hashes() if groups is None else hashes(group.encode() for group in groups)
    with np.errstate(over="ignore"):
        key = key + np.uint64(salt) * np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))
