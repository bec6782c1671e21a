"""What can be wrong with a data set, one function a kind of fault. docs/data-check.md explains each code."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from densekit.config import DataConfig
from densekit.data.list_images import summary
from densekit.data.prepare import FOLDER_SIZE
from densekit.data.sets import DataSet
from densekit.data_check.duplicates import Alike, connected
from densekit.data_check.image_scan import ImageScan
from densekit.errors import BadImage
from densekit.formatting import counted, printable

FEW = 10
"""Training images below which a class is pointed out."""
UNEQUAL = 10
"""How many times the images of the smallest class the largest may have."""
LONG = 2
"""Sides whose ratio is more lose more than half of the picture to a square cut from its middle."""


@dataclass(frozen=True)
class Item:
    """Images that belong together, or something without an image."""

    rows: tuple[int, ...] = ()
    """Of the scan."""
    note: str = ""
    path: str = ""
    """Of a file that is no row."""


@dataclass(frozen=True)
class Finding:
    """One kind of fault, with all its cases."""

    code: str
    level: Literal["error", "warning"]
    message: str
    """What was found, and how often."""
    fix: str
    items: tuple[Item, ...]


def unreadable(scan: ImageScan, skipped: dict[Path, BadImage], config: DataConfig) -> Iterator[Finding]:
    """Files that cannot be decoded: an error beyond data.max_bad."""
    items = [Item(note=str(error), path=printable(path)) for path, error in sorted(skipped.items())]
    items += [Item((row,), str(error)) for row, error in scan.bad.items()]
    if items:
        yield Finding(
            "unreadable",
            "error" if len(items) > config.max_bad else "warning",
            f"{counted(len(items), 'image file')} cannot be read; data.max_bad allows {config.max_bad}",
            f"mend or remove them, or skip them with --set data.max_bad={len(items)}",
            tuple(items),
        )


def classes(scan: ImageScan, counts: NDArray[np.int64]) -> Iterator[Finding]:
    """(splits, classes) counts of readable images: classes that are missing, small, or far larger than others."""
    by_split = dict(zip(scan.splits, counts, strict=True))
    train = by_split["train"]
    missing = [Item(note=name) for name, count in zip(scan.classes, train, strict=True) if not count]
    if missing:
        yield Finding(
            "missing_class",
            "error",
            f"{counted(len(missing), 'class', 'classes')} without a readable training image: {_some(missing)}",
            "add images, or remove the class from every split",
            tuple(missing),
        )
    everywhere = [Item(note=name) for name in scan.in_all(scan.splits.index("train"))]
    if everywhere:
        yield Finding(
            "constant_class",
            "error",
            f"{counted(len(everywhere), 'class', 'classes')} of which every training image is: {_some(everywhere)}",
            "add images without it, or leave it out of the labels: there is nothing to tell apart",
            tuple(everywhere),
        )
    few = [Item(note=f"{name} ({n})") for name, n in zip(scan.classes, train, strict=True) if 0 < n < FEW]
    if few:
        yield Finding(
            "few_images",
            "warning",
            f"{counted(len(few), 'class', 'classes')} with fewer than {FEW} training images: {_some(few)}",
            "add images: what so few teach is mostly chance",
            tuple(few),
        )
    there = train[train > 0]
    if len(there) and there.max() > UNEQUAL * there.min():
        largest, smallest = (
            scan.classes[i] for i in (train.argmax(), np.where(train > 0, train, train.max()).argmin())
        )
        yield Finding(
            "imbalance",
            "warning",
            f"{largest} has {there.max():,} training images, {smallest} {there.min():,}: "
            f"{there.max() / there.min():.0f} times as many",
            "add images of small classes, or train with --set class_weights=balanced; read accuracy class by class",
            (),
        )
    for name in ("val", "test"):
        absent = [Item(note=c) for c, n in zip(scan.classes, by_split.get(name, train), strict=True) if not n]
        if name in by_split and absent:
            yield Finding(
                f"unmeasured_{name}",
                "warning",
                f"{counted(len(absent), 'class', 'classes')} without an image in {name}: {_some(absent)}",
                f"add images to {name}: nothing will be known of how well these are recognised",
                tuple(absent),
            )


def duplicates(scan: ImageScan, groups: Sequence[NDArray[np.int64]]) -> Iterator[Finding]:
    """Images with the same pixels: in several splits, under several classes, or only more often than needed."""
    conflict = [group for group in groups if scan.disagree(group)]
    across = [group for group in groups if len(set(scan.split[group])) > 1]
    within = [group for group in groups if not scan.disagree(group) and len(set(scan.split[group])) == 1]
    if conflict:
        yield Finding(
            "label_conflict",
            "error",
            f"{counted(len(conflict), 'picture')} under two classes or more, the same to the pixel",
            "keep each under the right class: no network can learn both",
            tuple(Item(tuple(group.tolist())) for group in conflict),
        )
    if across:
        yield Finding(
            "duplicates_across_splits",
            "error",
            f"{counted(len(across), 'picture')} in more than one split, the same to the pixel: {_splits(scan, across)}",
            "remove each from all splits but one: accuracy on images that were trained on promises nothing",
            tuple(Item(tuple(group.tolist())) for group in across),
        )
    if within:
        surplus = sum(len(group) - 1 for group in within)
        yield Finding(
            "duplicates",
            "warning",
            f"{counted(len(within), 'picture')} more than once within a split, the same to the pixel: "
            f"{surplus:,} too many",
            "remove all but one: what is there twice counts twice",
            tuple(Item(tuple(group.tolist())) for group in within),
        )


def near_duplicates(scan: ImageScan, found: Alike, groups: Sequence[NDArray[np.int64]]) -> Iterator[Finding]:
    """The same picture in other pixels; where one of them has identical copies, these belong to it."""
    copies = {int(group[0]): group.tolist() for group in groups}
    similarity: dict[int, float] = {}
    mirrored: set[int] = set()
    for (a, b), flipped, value in zip(found.pairs.tolist(), found.mirrored, found.similarity.tolist(), strict=True):
        for row in (a, b):
            similarity[row] = min(similarity.get(row, 1.0), value)
            mirrored |= {row} if flipped else set()
    items = []
    for rows in connected(found.pairs.tolist()):
        note = f"similarity {min(similarity[row] for row in rows):.3f}"
        note += ", mirrored" if mirrored & set(rows) else ""
        items.append(Item(tuple(copy for row in rows for copy in copies.get(row, [row])), note))
    odd = [scan.disagree(item.rows) for item in items]
    apart = [len({scan.split[row] for row in item.rows}) > 1 for item in items]
    conflict = [item for item, is_odd in zip(items, odd, strict=True) if is_odd]
    across = [item for item, is_apart in zip(items, apart, strict=True) if is_apart]
    within = [item for item, *wrong in zip(items, odd, apart, strict=True) if not any(wrong)]
    if conflict:
        yield Finding(
            "near_label_conflict",
            "warning",
            f"{counted(len(conflict), 'picture')} under two classes or more, nearly the same",
            "look at them: one of the classes is probably wrong",
            tuple(conflict),
        )
    if across:
        where = _splits(scan, [np.array(item.rows) for item in across])
        yield Finding(
            "near_duplicates_across_splits",
            "warning",
            f"{counted(len(across), 'picture')} in more than one split, nearly the same: {where}",
            "look at them, and keep each in one split: they make accuracy look better than it is",
            tuple(across),
        )
    if within:
        yield Finding(
            "near_duplicates",
            "warning",
            f"{counted(len(within), 'picture')} more than once within a split, nearly the same",
            "look at them: they add little to learn from",
            tuple(within),
        )


def leaks(scan: ImageScan, groups: Sequence[str | None], *, divided: bool) -> Iterator[Finding]:
    """Groups (a patient, a scene, a video) with images in several splits. `divided`: by densekit."""
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        if group is not None:
            members.setdefault(group, []).append(row)
    leaking = [
        Item(tuple(rows), group)
        for group, rows in sorted(members.items())
        if len({scan.split[row] for row in rows}) > 1
    ]
    if leaking:
        own = "densekit divides image by image, so " if divided else ""
        yield Finding(
            "group_leak",
            "error",
            f"{len(leaking):,} of {counted(len(members), 'group')} with images in more than one split: "
            f"{_splits(scan, [np.array(item.rows) for item in leaking])}",
            f"{own}put all images of a group into one of train/, val/ and test/",
            tuple(leaking),
        )
    alone = [Item((row,)) for row, group in enumerate(groups) if group is None]
    if alone:
        yield Finding(
            "without_group",
            "warning",
            f"{counted(len(alone), 'image')} without a group: the pattern does not match the name",
            "widen the pattern of --group; nothing is known of their leaks",
            tuple(alone),
        )


def files(scan: ImageScan, config: DataConfig) -> Iterator[Finding]:
    """Suffixes that lie, storage that differs, and oddities of single files."""
    lying = [
        (row, kind)
        for row, (kind, promised) in enumerate(zip(scan.formats, scan.promised, strict=True))
        if kind and promised and kind != promised
    ]
    if lying:
        kinds = Counter(f"{kind} named {Path(scan.names[row]).suffix}" for row, kind in lying)
        yield Finding(
            "wrong_suffix",
            "warning",
            f"{counted(len(lying), 'file')} that are not what their suffix says: {_tally(kinds)}",
            "rename them: densekit looks at the content, other programs may not",
            tuple(Item((row,), kind) for row, kind in lying),
        )
    modes = Counter(mode for mode in scan.modes if mode)
    if len(modes) > 1:
        common = modes.most_common(1)[0][0]
        rare = [(row, mode) for row, mode in enumerate(scan.modes) if mode not in ("", common)]
        kept = {1: "grey", 3: "RGB", 4: "RGB with alpha"}[config.channels or 3]
        yield Finding(
            "mixed_modes",
            "warning",
            f"{counted(len(rare), 'file')} that are not {common} as most are: "
            f"{_tally(Counter(mode for _, mode in rare))}",
            f"densekit reads all as {kept} (--set data.channels=1, 3 or 4); see that a class cannot be told by it",
            tuple(Item((row,), mode) for row, mode in rare),
        )
    odd = [(row, notice) for row, notices in scan.notices.items() for notice in notices]
    if odd:
        kinds = Counter(notice for _, notice in odd)
        yield Finding(
            "notices",
            "warning",
            f"{counted(len(odd), 'file')} read in a way that may surprise: {_tally(kinds)}",
            "look at them; convert them to plain 8-bit PNG or JPEG where that is not what you want",
            tuple(Item((row,), notice) for row, notice in odd),
        )


def source(data: DataSet) -> Iterator[Finding]:
    """Pictures of a folder that are not used, and what may be read in another way than was meant."""
    if data.unused:
        yield Finding(
            "ignored",
            "warning",
            summary(data.unused),
            "convert them to PNG or JPEG, give them the suffix of their content, mend the links, or put them into a "
            "class's folder",
            tuple(Item(note=each.reason, path=printable(each.path)) for each in data.unused),
        )
    if data.notes:
        of_table = data.name.startswith("csv:")
        fix = "rename the folders if that is not what they are"
        if of_table:
            fix = "correct the table if that is not what it means"
        yield Finding("unclear_table" if of_table else "unclear_folders", "warning", "; ".join(data.notes), fix, ())


def contents(scan: ImageScan, blank: NDArray[np.int64], config: DataConfig) -> Iterator[Finding]:
    """Pictures that show nothing, or too little of what the network is to see."""
    if len(blank):
        yield Finding(
            "blank",
            "warning",
            f"{counted(len(blank), 'image')} of one shade all over",
            "remove them, unless nothing is what they are to show",
            tuple(Item((int(row),)) for row in blank),
        )
    if not any(scan.formats):  # arrays: all of one size
        return
    height, width = config.image_size or FOLDER_SIZE
    rows = scan.readable
    short, long = scan.sizes[rows].min(1), scan.sizes[rows].max(1)
    small = rows[short < min(height, width)]
    if len(small):
        middle = int(np.median(short))
        yield Finding(
            "small",
            "warning",
            f"{len(small):,} of {counted(len(rows), 'image')} are smaller than {height}x{width}, "
            + ("the size of training" if config.image_size else "the usual size of training"),
            "to enlarge them costs time and adds nothing; if the plan of densekit train shows a larger size than their "
            f"median, add --image-size {middle}",
            tuple(Item((int(row),), _size(scan, row)) for row in small),
        )
    narrow = rows[long > LONG * short]
    if len(narrow):
        yield Finding(
            "long",
            "warning",
            f"{counted(len(narrow), 'image')} more than {LONG} times as long as wide",
            "more than half of each is cut off, as the middle is kept; cut them to what matters",
            tuple(Item((int(row),), _size(scan, row)) for row in narrow),
        )


def _size(scan: ImageScan, row: int) -> str:
    width, height = scan.sizes[row]
    return f"{width}x{height}"


def _some(items: Sequence[Item]) -> str:
    return ", ".join(item.note for item in items[:5]) + (", ..." if len(items) > 5 else "")


def _tally(kinds: Counter[str]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(5)) + (", ..." if len(kinds) > 5 else "")


def _splits(scan: ImageScan, groups: Iterable[NDArray[np.int64]]) -> str:
    """`3 in train and test, 1 in val and test`."""
    sets = Counter(" and ".join(scan.splits[i] for i in np.unique(scan.split[group])) for group in groups)
    return ", ".join(f"{count:,} in {names}" for names, count in sets.most_common())
