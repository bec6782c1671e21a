"""`densekit data` as functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit import atomic
from densekit.config import DataConfig
from densekit.data import load
from densekit.data.sets import ArrayImages, DataSet
from densekit.data.sources.shard_writer import write_shards
from densekit.data.sources.shards import CLASSES
from densekit.data.split import divide
from densekit.data_check.inspection import Check
from densekit.data_check.inspection import check as examine
from densekit.data_check.report_page import write_data_report
from densekit.default_dtype import float32_default
from densekit.distributed.process_group import ALONE
from densekit.errors import BadData, InvalidInput
from densekit.evaluation.evaluate import with_data_settings
from densekit.folders import expanded
from densekit.training.run import data_folder, display_of


@float32_default()
def check(
    data: str | Path,
    *,
    group: str | None = None,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Check:
    """All that is wrong with DATA, in the splits that training would make of it; with `out` also as a page.

    `settings` are dotted keys below `data.`; `group` is a regular expression whose first group is, in a file's name,
    what must not be in two splits. Raises BadData where there is nothing to look at, InvalidInput.
    """
    config = with_data_settings(DataConfig(source=str(data), stratify=True), settings or {}).as_trained()
    page = None if out is None else Path(out)
    if page is not None and (page.is_dir() or not page.absolute().parent.is_dir()):
        raise InvalidInput(f"--out {page} cannot be written; name a file in a folder that exists, such as check.html")
    loaded = load(config, data_folder(data_dir), strict=False)
    divided = divide(loaded, config)
    total = sum(map(len, divided.splits.values()))
    with display_of(console, ALONE).counting("looking at images", total) as advance:
        found = examine(
            divided,
            config,
            group=group,
            divided=set(divided.splits) != set(loaded.splits),
            advance=advance,
        )
    if page is not None:
        try:
            write_data_report(page, found, config)
        except OSError as error:
            raise BadData(f"cannot write {page}: {error.strerror}; name another file with --out") from error
    return found


def _require_listable(data: DataSet) -> None:
    """What `shard` writes has to be read again: classes are lines of a file, two or more."""
    for name in data.classes:
        if not name or name.splitlines() != [name]:
            raise InvalidInput(f"the class {name!r} is not a line of text, as shards list classes; rename it")
    if len(data.classes) < 2:
        raise InvalidInput(f"{data.name} has one class, and shards need two or more; add images of what is not it")


def shard(
    data: str | Path,
    out: str | Path,
    *,
    shard_bytes: int = 256_000_000,
    data_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> dict[str, tuple[int, int]]:
    """Writes DATA as tar shards to the new folder `out`, all or none; {split: (shards, images)}.

    Raises BadData for images that cannot be read, more than data.max_bad, and for a full disk, InvalidInput.
    """
    config = with_data_settings(DataConfig(source=str(data)), settings or {})
    folder = expanded(out)
    if folder.exists():
        raise InvalidInput(f"--out {folder} exists; name a new folder")
    loaded = load(config, data_folder(data_dir))
    for images in loaded.splits.values():
        if isinstance(images, ArrayImages) and images.pixels.shape[1] not in (1, 3, 4):
            raise InvalidInput(f"{data} has images of {images.pixels.shape[1]} channels, which no image file holds")
    _require_listable(loaded)
    counts = {}
    total = sum(map(len, loaded.splits.values()))
    display = display_of(console, ALONE)
    for remark in loaded.remarks():
        display.say(remark)
    try:
        with atomic.fresh_folder(folder) as fresh, display.counting("writing images", total) as advance:
            atomic.write(fresh / CLASSES, "".join(f"{name}\n" for name in loaded.classes))
            for split, images in loaded.splits.items():
                written = []
                for _, count in write_shards(images, fresh, split, shard_bytes, loaded.skipped):
                    written.append(count)
                    advance(count)
                counts[split] = len(written), sum(written)
    except OSError as error:
        raise BadData(f"cannot write {folder}: {error.strerror}; nothing is left of it: make room") from error
    for row in loaded.skipped.rows():
        display.say(f"left out: {row['message']}")
    return counts
