"""`densekit data check`: all that is wrong with a data set as training would see it, before anybody trains on it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densekit.config import DataConfig
from densekit.data import findings
from densekit.data.decode import IMAGE_SUFFIXES, begins_like_an_image
from densekit.data.duplicates import alike, blank, identical
from densekit.data.findings import Finding, Item
from densekit.data.sets import DataSet, EncodedImages, FileImages, groups_of
from densekit.data.survey import Survey, survey
from densekit.errors import InvalidInput

_ORDER = ("train", "val", "test")
# Pictures that densekit does not read, whatever is in them.
_OTHER_SUFFIXES = frozenset((".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw"))


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found, errors first."""

    data: DataSet
    survey: Survey
    counts: NDArray[np.int64]
    """(splits, classes) readable images."""
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether training on these data would be right."""
        return not any(finding.level == "error" for finding in self.findings)


def check(
    data: DataSet,
    config: DataConfig,
    *,
    group: str | None = None,
    divided: bool = False,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Check:
    """Examines the splits of `data` as they are. `divided`: densekit made them; `folder`: what they were found in.

    `group` is a regular expression whose first group names, in a file's name, what must not be in two splits. Raises
    InvalidInput for one that cannot be used.
    """
    pattern = _compiled(group)
    if pattern is not None and not all(isinstance(images, EncodedImages) for images in data.splits.values()):
        raise InvalidInput(f"--group {group} looks at file names, and {data.name} has none; leave it out")
    data = data.with_splits({name: data.splits[name] for name in _ORDER if name in data.splits})
    seen = survey(data, config, advance)
    groups = _groups(data, seen, pattern)
    if pattern is not None and not any(groups):
        raise InvalidInput(f"--group {group} matches no file name, such as {seen.names[0]}; mend the pattern")
    same, counts = identical(seen), seen.counts()
    found = [
        *findings.unreadable(seen, data.skipped.files, config),
        *findings.classes(seen, counts),
        *findings.duplicates(seen, same),
        *(findings.leaks(seen, groups, divided=divided) if any(groups) else ()),
        *findings.near_duplicates(seen, alike(seen, mirrors=data.mirror_safe), same),
        *findings.files(seen, ignored(folder, data) if folder is not None else (), config),
        *findings.contents(seen, blank(seen), config),
    ]
    return Check(data, seen, counts, tuple(sorted(found, key=lambda finding: finding.level)))


def ignored(folder: Path, data: DataSet) -> list[Path]:
    """Pictures below `folder` that are in no split."""
    used = {path for images in data.splits.values() if isinstance(images, FileImages) for path in images.paths}
    used |= set(data.skipped.files)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path not in used and path.is_file() and not path.name.startswith(".") and _is_picture(path)
    ]


def as_dict(check: Check) -> dict[str, Any]:
    """For programs: everything that was found."""
    seen = check.survey
    return {
        "data": check.data.name,
        "passed": check.passed,
        "splits": {
            split: dict(zip(seen.classes, row, strict=True))
            for split, row in zip(seen.splits, check.counts.tolist(), strict=True)
        },
        "findings": [
            {
                "code": finding.code,
                "level": finding.level,
                "message": finding.message,
                "fix": finding.fix,
                "count": max(1, len(finding.items)),
                "items": [_item(item, seen) for item in finding.items],
            }
            for finding in check.findings
        ],
    }


def _item(item: Item, seen: Survey) -> dict[str, Any]:
    named = {key: value for key, value in (("note", item.note), ("path", item.path)) if value}
    images = [
        {"split": seen.splits[seen.split[row]], "image": seen.names[row], "class": seen.label(row)} for row in item.rows
    ]
    return named | ({"images": images} if images else {})


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in IMAGE_SUFFIXES or suffix in _OTHER_SUFFIXES or begins_like_an_image(path)


def _compiled(group: str | None) -> re.Pattern[str] | None:
    if group is None:
        return None
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise InvalidInput(f"--group {group} is not a regular expression: {error}") from error
    if not pattern.groups:
        raise InvalidInput(f"--group {group} has no parentheses around what names the group, as in '(patient\\d+)_'")
    return pattern


def _groups(data: DataSet, seen: Survey, pattern: re.Pattern[str] | None) -> Sequence[str | None]:
    """Of each row; a table may name them itself."""
    if pattern is None:
        own: list[Sequence[str | None]] = [groups_of(images) or [None] * len(images) for images in data.splits.values()]
        return [group for groups in own for group in groups]
    matches = [pattern.search(name if "/" in pattern.pattern else name.rsplit("/", 1)[-1]) for name in seen.names]
    return [match.group(1) if match else None for match in matches]
