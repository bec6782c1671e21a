"""DATA of the command line -> a data set: the tables of named data sets and of prefixes.

A new source is a file beside this one, and a line in `NAMED` or `PREFIXES`.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from densekit.config import DataConfig
from densekit.data.sets import DataSet
from densekit.data.sources import archives
from densekit.data.sources.digits import digits
from densekit.data.sources.expected import Expected
from densekit.data.sources.folder import folder
from densekit.data.sources.huggingface import hub, hub_pictures
from densekit.data.sources.imagenet import imagenet_folder
from densekit.data.sources.shards import is_remote, iter_images, shards
from densekit.data.sources.synthetic import synthetic
from densekit.data.sources.table import table
from densekit.data.sources.table_rows import table_images
from densekit.errors import BadData, InvalidInput, UnknownName
from densekit.folders import expanded
from densekit.formatting import printable

NAMED: dict[str, Callable[[Path], DataSet]] = {
    "digits": lambda _: digits(),
    "mnist": archives.mnist,
    "fashion-mnist": archives.fashion_mnist,
    "cifar10": archives.cifar10,
    "cifar100": archives.cifar100,
    "svhn": archives.svhn,
}


class Load(Protocol):
    """What stands after a prefix -> a data set; for `strict` and `expected` see `load`."""

    def __call__(self, rest: str, config: DataConfig, *, strict: bool, expected: Expected | None) -> DataSet:
        """Raises InvalidInput for what cannot be a name, BadData for missing or unusable images."""


Unlabelled = Iterable[tuple[str, str | Callable[[], bytes]]]
"""Of each image its name, and its path or what reads its bytes."""


@dataclass(frozen=True)
class Source:
    """A form of DATA with a prefix. Each function gets what stands after the colon."""

    load: Load
    place: Callable[[str], Path | None]
    """The path or pattern on this machine that it names; none: something else."""
    images: Callable[[str, DataConfig, str | None], Unlabelled] | None = None
    """All images, without labels, for prediction; by settings, and the column that a model was trained with."""
    is_pattern: bool = False
    """Whether the path may have wild cards, so that it need not exist."""
    is_local: Callable[[str], bool] = lambda _: True
    """Whether nothing is downloaded for it."""
    has_name: bool = True
    """Whether the name of a file or of a data set stands after the colon."""


PREFIXES: dict[str, Source] = {
    "csv": Source(
        lambda rest, config, *, strict, expected: table(expanded(rest), config, strict=strict, expected=expected),
        expanded,
        lambda rest, config, column: ((str(file),) * 2 for file in table_images(expanded(rest), config, column)),
    ),
    "wds": Source(
        lambda rest, config, *, strict, expected: shards(rest, config, expected=expected),
        lambda rest: None if is_remote(rest) else expanded(rest),
        lambda rest, config, column: iter_images(rest),
        is_pattern=True,
    ),
    "hf": Source(
        lambda rest, config, *, strict, expected: hub(rest, config, strict=strict, expected=expected),
        lambda rest: path if (path := expanded(rest)).is_absolute() or path.exists() else None,
        lambda rest, config, column: hub_pictures(rest, config.path_column or column),
        is_local=lambda rest: expanded(rest).exists(),
    ),
    "synthetic": Source(
        lambda rest, config, *, strict, expected: synthetic(f"synthetic:{rest}"), lambda _: None, has_name=False
    ),
}

# Data sets whose classes a mirror changes; everything else may be flipped.
NOT_MIRROR_SAFE = frozenset({"digits", "mnist", "svhn"})


def is_in_memory(source: str) -> bool:
    """Whether the images of DATA are arrays, not encoded: of a data set with a name, or a synthetic one."""
    return source in NAMED or source.startswith("synthetic:")


def prefixed(source: str) -> tuple[str, Source | None, str]:
    """The prefix with its colon, the form that it stands for, and the rest; without a known prefix all is the rest."""
    form, colon, rest = source.partition(":")
    return (f"{form}:", PREFIXES[form], rest) if colon and form in PREFIXES else ("", None, source)


def load(config: DataConfig, data_dir: Path, *, strict: bool = True, expected: Expected | None = None) -> DataSet:
    """A known name, `imagenet`, `synthetic:HxWxC:CLASSES[:COUNT]`, a folder, `csv:FILE`, `wds:PATTERN`, or `hf:NAME`.

    Not `strict`: with the faults that would stop training, as far as there is anything left to look at. `expected`: for
    an evaluation, which needs no training images. Raises UnknownName or InvalidInput for a malformed source, BadData
    for missing or unusable images.
    """
    return replace(_load(config, data_dir, strict=strict, expected=expected), name=_title(config.source))


def _load(config: DataConfig, data_dir: Path, *, strict: bool, expected: Expected | None) -> DataSet:
    source = config.source
    _check_form(source)
    if source in NAMED:
        return NAMED[source](data_dir)
    _, form, rest = prefixed(source)
    if form is not None:
        return form.load(rest, config, strict=strict, expected=expected)
    if source == "imagenet":
        return folder(imagenet_folder(data_dir), config, strict=strict, expected=expected)
    path = expanded(source)
    if path.is_dir():
        return folder(path, config, strict=strict, expected=expected)
    if path.exists():
        fit = "wds" if path.suffix == ".tar" else "csv"
        raise BadData(f"{source} is a file; DATA is a folder with a subfolder of images for each class, or {fit}:FILE")
    if re.fullmatch(r"[\w:-]+", source):
        raise UnknownName("data set or folder", source, [*NAMED, "imagenet", "synthetic:32x32x3:10"])
    raise BadData(
        f"no folder {source}; DATA is a folder with a subfolder for each class, csv:FILE, wds:PATTERN, hf:NAME, or one "
        f"of {', '.join(NAMED)}"
    )


def _check_form(source: str) -> None:
    """Raises BadData for a source that is no text, InvalidInput for one without a name."""
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise BadData(
            f"{printable(source)} is not UTF-8, as which a model stores what it was trained on; rename it"
        ) from error
    _, form, rest = prefixed(source)
    if not (rest if form is not None and form.has_name else source.partition(":")[0]):
        raise InvalidInput(f"DATA '{source}' names nothing; name a data set, or a folder: . is the current one")


def place_of(source: str) -> Path | None:
    """The path or pattern that DATA names; None for a named data set, made-up images, the Hub, and remote shards."""
    if source in NAMED or source in ("", "imagenet"):
        return None
    _, form, rest = prefixed(source)
    if form is None:
        return expanded(source)
    return form.place(rest) if rest else None  # `load` refuses it; the empty path would be the current folder


def located(config: DataConfig) -> DataConfig:
    """`config` with absolute paths, for use from any working directory. A path that does not exist stays as given.

    So does a pattern where the working directory's own name would be read as part of it.
    """
    changes = {}
    place = place_of(config.source)
    prefix, form, _ = prefixed(config.source)
    is_pattern = form is not None and form.is_pattern and not re.search(r"[][*?{}]", os.getcwd())
    if place is not None and (place.exists() or is_pattern):
        changes["source"] = f"{prefix}{place.absolute()}"
    if config.image_root is not None and (root := expanded(config.image_root)).exists():
        changes["image_root"] = str(root.absolute())
    return config.model_copy(update=changes)


def same_source(one: str, other: str) -> bool:
    """Whether two DATA name the same files or the same named data set, however they are written."""
    places = place_of(one), place_of(other)
    if places[0] is None or places[1] is None:
        return one == other
    return prefixed(one)[0] == prefixed(other)[0] and places[0].resolve() == places[1].resolve()


def missing(config: DataConfig) -> tuple[str, Path] | None:
    """What of data.source and data.image_root names a path that does not exist, and the path; patterns are not tried.

    Named as it is set: `data.source=csv:`.
    """
    prefix, form, _ = prefixed(config.source)
    place = None if form is not None and form.is_pattern else place_of(config.source)
    if place is not None and not place.exists():
        return f"data.source={prefix}", place
    root = None if config.image_root is None else expanded(config.image_root)
    return None if root is None or root.exists() else ("data.image_root=", root)


def _title(source: str) -> str:
    """DATA for people: of a path its last part."""
    place = place_of(source)
    if place is None:
        return source
    return prefixed(source)[0] + (place.name or place.absolute().name or source)


def short_name(source: str) -> str:
    """DATA as a title, and as a part of a file's name: of a path its last part, of a pattern what has no wild card."""
    form = re.match("csv|wds|hf", source) if ":" in source else None
    if form is None:
        # Of `.` and `..` the folder's own name; without a dot in front, which would hide a run that is called so.
        name = Path(os.path.abspath(expanded(source))).name.lstrip(".")
        return printable(name) or "data"
    name = Path(source.partition(":")[2]).name
    return name if form[0] == "csv" else re.sub(r"[^\w.]+", "-", name).strip("-.") or form[0]


def at_hand(source: str, data_dir: Path) -> bool:
    """Whether `load` needs no download for it, as far as folders' names tell."""
    if source in archives.PLACES:
        return any(place.is_dir() and any(place.iterdir()) for place in archives.PLACES[source](data_dir))
    _, form, rest = prefixed(source)
    if form is not None:
        return form.is_local(rest)
    return source in NAMED or source == "imagenet" or expanded(source).is_dir()
