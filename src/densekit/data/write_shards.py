"""`densekit data shard` as a function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit import atomic
from densekit.config import DataConfig, with_data_settings
from densekit.data.sets import ArrayImages, DataSet
from densekit.data.sources.registry import load
from densekit.data.sources.shard_writer import write_shards
from densekit.data.sources.shards import CLASSES
from densekit.errors import BadData, InvalidInput
from densekit.folders import data_folder, expanded
from densekit.terminal import display_of


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
    display = display_of(console)
    for remark in loaded.remarks():
        display.log(remark)
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
        display.log(f"left out: {row['message']}")
    return counts
