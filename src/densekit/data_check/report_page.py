"""What `densekit data check` found -> one HTML file that needs nothing else, with pictures of what is wrong."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from densekit import atomic
from densekit.config import DataConfig
from densekit.data.sources.registry import short_name
from densekit.data_check.duplicates import ALIKE
from densekit.data_check.inspection import Check
from densekit.data_check.issues import Finding, Item
from densekit.report.pictures import SMALL, Picture, image_of, picture_uri, template
from densekit.version import __version__

# Of a finding; the rest is in the output of --json. Together a page of some hundred kilobytes.
_GROUPS = 12
_SINGLE = 18
_OF_A_GROUP = 4
_LINES = 30
_LARGEST = 128  # pixels

_SIZES = 6
_SUFFICIENT = 60
"""Rows of the table of classes up to which it is not folded."""


@dataclass(frozen=True)
class Shown:
    """An item of a finding with its pictures."""

    note: str
    pictures: tuple[tuple[str, Picture], ...]
    """(split, picture)."""
    more: int
    """Images of it that are not shown."""


def write_data_report(path: Path, found: Check, config: DataConfig) -> None:
    """Writes the page to `path`. Raises OSError."""
    seen, errors = found.scan, [finding for finding in found.findings if finding.level == "error"]
    page = template("data.html").render(
        name=short_name(found.data.name),
        source=found.data.name,
        count=len(seen),
        unreadable=len(seen.bad) + len(found.data.skipped.files),
        classes=len(seen.classes),
        errors=errors,
        warnings=len(found.findings) - len(errors),
        sections=[_section(finding, found, config) for finding in found.findings],
        splits=seen.splits,
        balance=list(_balance(found)),
        totals=list(seen.images().values()),
        folded=len(seen.classes) > _SUFFICIENT,
        storage=list(_storage(found)),
        alike=ALIKE,
        mirrors=found.data.mirror_safe,
        version=__version__,
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )
    # A file name need not be valid Unicode; a page must be.
    atomic.write(path, page.encode("utf-8", "replace"))


def _section(finding: Finding, found: Check, config: DataConfig) -> dict[str, Any]:
    pictured = finding.code != "unreadable" and any(item.rows for item in finding.items)
    grouped = pictured and any(len(item.rows) > 1 for item in finding.items)
    bound = (_GROUPS if grouped else _SINGLE) if pictured else _LINES
    items = finding.items[:bound]
    return {
        "finding": finding,
        "hidden": len(finding.items) - len(items),
        "grouped": grouped,
        "shown": [_shown(item, found, config) for item in items] if pictured else [],
        "lines": [] if pictured else [item.note or item.path for item in items],
    }


def _shown(item: Item, found: Check, config: DataConfig) -> Shown:
    rows = _varied(item.rows, found)
    pictures = tuple((found.scan.splits[found.scan.split[row]], _picture(row, found, config)) for row in rows)
    return Shown(item.note, pictures, len(item.rows) - len(rows))


def _varied(rows: tuple[int, ...], found: Check) -> list[int]:
    """A few of them, first one of each split and class: what a group is about is that they differ."""
    first = {(found.scan.split[row], found.scan.label(row)): row for row in reversed(rows)}
    chosen = [*first.values(), *(row for row in rows if row not in first.values())][:_OF_A_GROUP]
    return sorted(chosen)


def _picture(row: int, found: Check, config: DataConfig) -> Picture:
    seen = found.scan
    images = found.data.splits[seen.splits[seen.split[row]]]
    image = image_of(images, int(seen.sample[row]), config.channels or 3, config.max_pixels, config.window)
    return Picture(
        uri=None if image is None else picture_uri(image, _LARGEST),
        small=image is not None and max(image.size) <= SMALL,
        true=seen.label(row),
        name=seen.names[row].rsplit("/", 1)[-1],  # its folder is its class
    )


def _balance(found: Check) -> Iterator[dict[str, Any]]:
    """A row a class; shares are of the largest class of a split."""
    largest = np.maximum(found.counts.max(1), 1)
    for name, counts in zip(found.scan.classes, found.counts.T, strict=True):
        yield {"name": name, "counts": counts.tolist(), "shares": (counts / largest).tolist()}


def _storage(found: Check) -> Iterator[tuple[str, str]]:
    """What there is to know of sizes and files."""
    seen = found.scan
    rows = seen.readable
    if not len(rows):
        return
    sizes = Counter(f"{width} x {height}" for width, height in seen.sizes[rows].tolist())
    if len(sizes) == 1:
        yield "width x height", next(iter(sizes))
    else:
        commonest = ", ".join(f"{size} ({count:,})" for size, count in sizes.most_common(_SIZES))
        yield "width x height", f"{len(sizes):,} different; commonest {commonest}"
        short = seen.sizes[rows].min(1)
        yield "shorter side", f"{short.min():,} to {short.max():,} pixels, median {int(np.median(short)):,}"
    for name, values in (("format", seen.formats), ("pixels kept as", seen.modes)):
        kinds = Counter(value for value in values if value)
        if kinds:
            yield name, ", ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common())
