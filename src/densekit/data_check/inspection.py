"""`densekit data check`: all that is wrong with a data set as training would see it, before anybody trains on it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densekit.config import DataConfig
from densekit.data.sets import DataSet, EncodedImages, groups_of
from densekit.data_check import issues
from densekit.data_check.duplicates import alike, blank, identical
from densekit.data_check.image_scan import ImageScan, scan_images
from densekit.data_check.issues import Finding, Item
from densekit.errors import InvalidInput

_ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found, errors first."""

    data: DataSet
    scan: ImageScan
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
    advance: Callable[[int], None] = lambda _: None,
) -> Check:
    """Examines the splits of `data` as they are. `divided`: densekit made them.

    `group` is a regular expression whose first group names, in a file's name, what must not be in two splits. Raises
    InvalidInput for one that cannot be used.
    """
    pattern = _compiled(group)
    if pattern is not None and not all(isinstance(images, EncodedImages) for images in data.splits.values()):
        raise InvalidInput(f"--group {group} looks at file names, and {data.name} has none; leave it out")
    data = data.with_splits({name: data.splits[name] for name in _ORDER if name in data.splits})
    seen = scan_images(data, config, advance)
    groups = _groups(data, seen, pattern)
    if pattern is not None and not any(groups):
        raise InvalidInput(f"--group {group} matches no file name, such as {seen.names[0]}; mend the pattern")
    same, counts = identical(seen), seen.counts()
    found = [
        *issues.unreadable(seen, data.skipped.files, config),
        *issues.classes(seen, counts),
        *issues.duplicates(seen, same),
        *(issues.leaks(seen, groups, divided=divided) if any(groups) else ()),
        *issues.near_duplicates(seen, alike(seen, mirrors=data.mirror_safe), same),
        *issues.files(seen, config),
        *issues.source(data),
        *issues.contents(seen, blank(seen), config),
    ]
    return Check(data, seen, counts, tuple(sorted(found, key=lambda finding: finding.level)))


def as_dict(check: Check) -> dict[str, Any]:
    """For programs: everything that was found."""
    seen = check.scan
    return {
        "data": check.data.name,
        "passed": check.passed,
        "splits": {
            split: dict(zip(seen.classes, row, strict=True))
            for split, row in zip(seen.splits, check.counts.tolist(), strict=True)
        },
        "images": seen.images(),
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


def _item(item: Item, seen: ImageScan) -> dict[str, Any]:
    named = {key: value for key, value in (("note", item.note), ("path", item.path)) if value}
    images = [
        {"split": seen.splits[seen.split[row]], "image": seen.names[row], "class": seen.label(row)} for row in item.rows
    ]
    return named | ({"images": images} if images else {})


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


def _groups(data: DataSet, seen: ImageScan, pattern: re.Pattern[str] | None) -> Sequence[str | None]:
    """Of each row; a table may name them itself."""
    if pattern is None:
        own: list[Sequence[str | None]] = [groups_of(images) or [None] * len(images) for images in data.splits.values()]
        return [group for groups in own for group in groups]
    matches = [pattern.search(name if "/" in pattern.pattern else name.rsplit("/", 1)[-1]) for name in seen.names]
    return [match.group(1) if match else None for match in matches]
