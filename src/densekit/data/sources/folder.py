"""A folder of images: DIR/train/<class>/* with DIR/val or DIR/test, or DIR/<class>/*."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from densekit.config import DataConfig
from densekit.data.decoding.decode import IMAGE_SUFFIXES, check_header
from densekit.data.list_images import Scan, Unused, scan, subfolders, summary
from densekit.data.sets import CHECKED_FILES, DataSet, FileImages, SkipList, class_counts
from densekit.data.sources.class_names import check_names, similar, unlike
from densekit.data.sources.expected import Expected
from densekit.data.sources.split_names import SPLITS
from densekit.errors import BadData, BadImage

_SPLIT_WORDS = "train, val (valid, validation) or test"


@dataclass(frozen=True)
class Layout:
    """Where the splits of a folder are."""

    splits: dict[str, Path]
    """The folder of each split; `train` alone where the folder is not divided."""
    others: tuple[Scan, ...] = ()
    """Folders beside the splits that belong to none of them."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the folder is read."""


def folder(root: Path, config: DataConfig, *, strict: bool = True, expected: Expected | None = None) -> DataSet:
    """The images under `root` by class. Raises BadData for missing, empty or single classes and unreadable files.

    Not `strict`, for somebody who looks for faults: classes that only some splits have, or that have no readable
    images, and any number of unreadable files are part of the data set. `expected`, for an evaluation: any split and
    any class are enough.
    """
    layout = layout_of(root)
    if expected is not None:
        return _for_evaluation(root, layout, config)
    if "train" not in layout.splits:
        found = " and ".join(path.name for path in layout.splits.values())
        raise BadData(
            f"{root} has {found}, but no training images; put them into {root / 'train'}, a folder for each class, or "
            "rename these folders if they are classes"
        )
    scans = {split: _scans(path) for split, path in layout.splits.items()}
    classes = _classes(root, layout, scans, strict=strict)
    skipped = SkipList(config.max_bad if strict else sys.maxsize)
    splits = {split: _images(scans[split], layout.splits[split], classes, skipped, config) for split in scans}
    if strict:
        _check_train(splits["train"], classes, scans["train"])
    for images in splits.values():
        if not len(images):
            raise BadData(f"no images in {images.root}; add some, or remove the folder")
    unused, notes = _unused(root, layout, scans), (*layout.notes, *similar(classes))
    return DataSet(str(root), classes, splits, skipped=skipped, unused=unused, notes=notes)


def _for_evaluation(root: Path, layout: Layout, config: DataConfig) -> DataSet:
    """The splits that are there, and the classes that have images in any of them."""
    scans = {split: _scans(path) for split, path in layout.splits.items()}
    classes = tuple(sorted({name for found in scans.values() for name, each in found.items() if each.images}))
    check_names(classes, root)
    if not classes:
        raise BadData(f"no class folders with images in {root}; it needs a subfolder of images for each class")
    skipped = SkipList(config.max_bad)
    splits = {split: _images(scans[split], layout.splits[split], classes, skipped, config) for split in scans}
    splits = {split: images for split, images in splits.items() if len(images)}
    if not splits:
        raise BadData(f"no readable images in {root}; data.max_bad={config.max_bad} may be unreadable")
    unused, notes = _unused(root, layout, scans), (*layout.notes, *similar(classes))
    return DataSet(str(root), classes, splits, skipped=skipped, unused=unused, notes=notes)


def layout_of(root: Path) -> Layout:
    """Which folders in `root` are splits, by their names and by what they hold. Raises BadData where that is unclear.

    A folder that is called like a split is one if it holds folders with images, and a class if it holds the images
    themselves. Without any split all folders are classes of `train`.
    """
    found = subfolders(root)
    named = {name: SPLITS[name.lower()] for name in found if name.lower() in SPLITS}
    divided = [name for name in named if _holds_classes(found[name])]
    if not divided:
        return _undivided(root, list(named), alone=len(found) == len(named))
    flat = [name for name in named if name not in divided and scan(found[name], deep=False).images]
    if flat:
        raise BadData(
            f"{_listed(flat)} in {root} holds images, but {_listed(divided)} holds class folders; put the images of "
            f"{flat[0]} into folders of the same classes, or move it out of {root}"
        )
    splits: dict[str, Path] = {}
    for name, split in named.items():
        if split in splits:
            raise BadData(
                f"{splits[split].name} and {name} in {root} both mean the split {split}; put their images together, or "
                "move one of them away"
            )
        splits[split] = found[name]
    scanned = {name: scan(path) for name, path in found.items() if name not in named}
    others = {name: each for name, each in scanned.items() if each.pictures}
    if others and ("train" not in splits or len(splits) == 1):
        only = next(iter(splits.values())).name
        raise BadData(
            f"{_listed(list(others))} in {root} {'is' if len(others) == 1 else 'are'} neither a split nor part of one, "
            f"but {only} is a split; move into {only} what belongs to it, call other splits {_SPLIT_WORDS}, or rename "
            f"{only} if it is a class"
        )
    return Layout({split: splits[split] for split in ("train", "val", "test") if split in splits}, (*others.values(),))


def _undivided(root: Path, named: list[str], *, alone: bool) -> Layout:
    """All folders are classes; `named` are called like splits."""
    if len(named) > 1:
        raise BadData(
            f"{_listed(named)} in {root} are called like splits, but hold images and not a folder for each class; "
            "put the images into class folders, or list them in a table: csv:FILE"
        )
    if named and not alone:
        note = f"{named[0]} is read as a class, as it holds images and no class folders; move it away if it is a split"
        return Layout({"train": root}, notes=(note,))
    return Layout({"train": root})


def _holds_classes(path: Path) -> bool:
    """Whether a folder that is called like a split holds folders with images, or empty ones and no image itself."""
    inside = subfolders(path)
    if not inside or not scan(path, deep=False).images:
        return bool(inside)
    return any(scan(each).images for each in inside.values())


def _scans(root: Path) -> dict[str, Scan]:
    """The class folders of a split. One with nothing but what densekit has written is no class."""
    found = {name: scan(path) for name, path in subfolders(root).items()}
    return {name: each for name, each in found.items() if each.images or not each.outputs}


def _classes(root: Path, layout: Layout, scans: dict[str, dict[str, Scan]], *, strict: bool) -> tuple[str, ...]:
    path, train = layout.splits["train"], scans["train"]
    everywhere = sorted({name for of_split in scans.values() for name in of_split})
    check_names(everywhere, root)
    if len(train) < 2:
        found = f"only one class, {next(iter(train))}" if train else "no class folders"
        raise BadData(f"{found} in {path}; it needs a subfolder of images for each of two or more classes")
    for split, of_split in scans.items() if strict else ():
        unknown = [name for name in of_split if name not in train]
        if unknown:
            raise BadData(
                f"{layout.splits[split]} has classes that {path.name}/ has not: "
                f"{', '.join(name + unlike(name, train) for name in unknown[:5])}; rename or remove them"
            )
    return tuple(train) if strict else tuple(everywhere)


def _images(
    scans: dict[str, Scan], root: Path, classes: Sequence[str], skipped: SkipList, config: DataConfig
) -> FileImages:
    candidates = [(path, label) for label, name in enumerate(classes) if name in scans for path in scans[name].images]
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


def _check_train(images: FileImages, classes: Sequence[str], scans: dict[str, Scan]) -> None:
    """Raises BadData for a class without a readable image."""
    counts = class_counts(images, classes)
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        unused = summary([each for name in empty for each in scans[name].unused])
        raise BadData(
            f"no readable images of {', '.join(empty[:5])} in {images.root}{unused and f' ({unused})'}; add some "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}), or move what is no class out of {images.root}"
        )


def _unused(root: Path, layout: Layout, scans: dict[str, dict[str, Scan]]) -> tuple[Unused, ...]:
    """Everything below `root` that looks like a picture and is in no split."""
    found = [each for of_split in scans.values() for of_class in of_split.values() for each in of_class.unused]
    for path in {root, *layout.splits.values()}:
        loose = scan(path, deep=False)
        found += [*loose.unused, *(Unused(each, "outside the class folders") for each in loose.images)]
    found += [Unused(path, "in no split") for other in layout.others for path in other.pictures]
    return tuple(sorted(found, key=lambda each: each.path))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names[:5]) + (" and more" if len(names) > 5 else "")
