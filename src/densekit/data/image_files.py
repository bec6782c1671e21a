"""Files, folders, globs, tables, shards, data sets of the Hub -> their images, for prediction without labels."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from densekit.config import DataConfig
from densekit.data.decoding.decode import IMAGE_SUFFIXES
from densekit.data.list_images import is_litter, scan, summary
from densekit.data.sources.registry import prefixed
from densekit.errors import BadData

Note = Callable[[str, str], None]


class ImageFile(NamedTuple):
    """An image that was asked for."""

    name: str
    """A path; of an image in a tar file SHARD/FILE, of a row hf:NAME/SPLIT/ROW."""
    source: str | Callable[[], bytes]
    """The path, or what reads the bytes."""

    def read(self) -> str | bytes:
        """What `Classifier.predict` takes. Raises BadData where a shard cannot be read."""
        return self.source() if callable(self.source) else self.source


def find_images(
    paths: Iterable[str | os.PathLike[str]], *, table: DataConfig, trained_column: str | None, note: Note
) -> Iterator[ImageFile]:
    """The images that `paths` name.

    Args:
        paths: Files, folders, globs, csv:FILE, wds:PATTERN or hf:NAME. A file that does not exist is one of the images.
        table: How a table is read: its column of images, and the folder that its paths start from.
        trained_column: The column of images to take where `table` names none, if the table has it.
        note: Gets a folder and a line about the pictures in it that are not used.

    Raises:
        BadData: a folder or pattern without images, a table or shard that cannot be read.
        InvalidInput: a table whose column of images is not known.
    """
    for given in paths:
        path = os.fspath(given)
        _, form, rest = prefixed(path)
        if form is not None and form.images is not None:
            yield from (ImageFile(*each) for each in form.images(rest, table, trained_column))
        elif Path(path).is_dir():
            yield from _below(path, note)
        elif not Path(path).exists() and glob.has_magic(path):
            yield from _matching(path, note)
        else:
            yield ImageFile(path, path)  # a missing file is one bad picture, not the end


def _below(folder: str, note: Note) -> Iterator[ImageFile]:
    found = scan(Path(folder))
    unused = summary(found.unused)
    if not found.images:
        looked = unused or f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise BadData(f"no pictures in {folder}; {looked}")
    if unused:
        note(folder, unused)
    yield from (ImageFile(str(path), str(path)) for path in found.images)


def _matching(pattern: str, note: Note) -> Iterator[ImageFile]:
    """The files that match; where only folders do, what is below them."""
    # Litter that the pattern names itself is what was asked for.
    named = Path(pattern).parts
    matches = [
        match
        for match in sorted(glob.glob(pattern, recursive=True))
        if not any(is_litter(part) for part in Path(match).parts if part not in named)
    ]
    files = [match for match in matches if not Path(match).is_dir()]
    if not matches:
        raise BadData(f"nothing matches {pattern}; check the path, or quote it for the shell")
    for match in files or matches:
        yield from [ImageFile(match, match)] if files else _below(match, note)
