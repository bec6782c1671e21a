"""A folder of images: DIR/train/<class>/* with DIR/val or DIR/test, or DIR/<class>/*."""

import sys
from pathlib import Path

import torch

from densekit.config import DataConfig
from densekit.data.decode import IMAGE_SUFFIXES, check_header
from densekit.data.sets import CHECKED_FILES, DataSet, FileImages, SkipList, class_counts
from densekit.errors import BadData, BadImage


def folder(root: Path, config: DataConfig, *, strict: bool = True) -> DataSet:
    """The images under `root` by class. Raises BadData for missing, empty or single classes and unreadable files.

    Not `strict`, for somebody who looks for faults: classes that only some splits have, or that have no readable
    images, and any number of unreadable files are part of the data set.
    """
    split_roots = {"train": root}
    if (root / "train").is_dir():
        split_roots = {name: root / name for name in ("train", "val", "test") if (root / name).is_dir()}
    classes = _classes(split_roots["train"])
    if not strict:
        classes = tuple(sorted({*classes, *(name for path in split_roots.values() for name in _subfolders(path))}))
    skipped = SkipList(config.max_bad if strict else sys.maxsize)
    splits = {name: _images(path, classes, skipped, config) for name, path in split_roots.items()}
    for name, images in splits.items():
        counts = class_counts(images, classes)
        empty = [cls for cls, count in zip(classes, counts, strict=True) if not count]
        if empty and name == "train" and strict:
            raise BadData(
                f"no readable images of {', '.join(empty[:5])} in {path_of(root, name)}; "
                f"add some ({', '.join(sorted(IMAGE_SUFFIXES))}), or remove the folder"
            )
        if not len(images):
            raise BadData(f"no images in {path_of(root, name)}; add some, or remove the folder")
    return DataSet(str(root), classes, splits, skipped=skipped)


def path_of(root: Path, split: str) -> Path:
    """Where a split's classes stand."""
    return root / split if (root / split).is_dir() else root


def _classes(root: Path) -> tuple[str, ...]:
    try:
        classes = tuple(
            sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        )
    except OSError as error:
        raise BadData(f"cannot read {root}: {error.strerror}; check its permissions") from error
    if len(classes) < 2:
        found = f"only one class, {classes[0]}" if classes else "no class folders"
        raise BadData(f"{found} in {root}; it needs a subfolder of images for each of two or more classes")
    return classes


def _images(root: Path, classes: tuple[str, ...], skipped: SkipList, config: DataConfig) -> FileImages:
    unknown = set(_subfolders(root)) - set(classes)
    if unknown:
        raise BadData(
            f"{root} has classes that train/ has not: {', '.join(sorted(unknown)[:5])}; rename or remove them"
        )
    candidates = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")
    ]
    paths, labels = [], []
    for path, label in candidates:
        if len(candidates) <= CHECKED_FILES:
            try:
                check_header(path, max_pixels=config.max_pixels)
            except BadImage as error:
                skipped.add(path, error)
                continue
        paths.append(path)
        labels.append(label)
    return FileImages(tuple(paths), torch.tensor(labels, dtype=torch.int64), root)


def _subfolders(root: Path) -> list[str]:
    return [entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
