"""DATA of the command line -> a data set."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from densekit.config import DataConfig
from densekit.data.sets import ArrayImages, DataSet
from densekit.data.sources import archives
from densekit.data.sources.expected import Expected
from densekit.data.sources.folder import folder
from densekit.data.sources.huggingface import hub
from densekit.data.sources.shards import is_remote, shards
from densekit.data.sources.table import table
from densekit.errors import BadData, InvalidInput, UnknownName
from densekit.folders import expanded
from densekit.formatting import printable

_SYNTHETIC = re.compile(
    r"synthetic:(?P<height>\d+)x(?P<width>\d+)x(?P<channels>\d+):(?P<classes>\d+)(?::(?P<count>\d+))?"
)

NAMED: dict[str, Callable[[Path], DataSet]] = {
    "digits": lambda _: digits(),
    "mnist": archives.mnist,
    "fashion-mnist": archives.fashion_mnist,
    "cifar10": archives.cifar10,
    "cifar100": archives.cifar100,
    "svhn": archives.svhn,
}

_FILE_FORMS = ("csv", "wds", "hf")
_FILE_PREFIXES = tuple(f"{form}:" for form in _FILE_FORMS)

# Data sets whose classes a mirror changes; everything else may be flipped.
NOT_MIRROR_SAFE = frozenset({"digits", "mnist", "svhn"})


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
    if source.startswith("synthetic:"):
        return synthetic(source)
    if source.startswith("csv:"):
        return table(expanded(source.removeprefix("csv:")), config, strict=strict, expected=expected)
    if source.startswith("wds:"):
        return shards(source.removeprefix("wds:"), config, expected=expected)
    if source.startswith("hf:"):
        return hub(source.removeprefix("hf:"), config, strict=strict, expected=expected)
    if source == "imagenet":
        return folder(_imagenet(data_dir), config, strict=strict, expected=expected)
    path = expanded(source)
    if path.is_dir():
        return folder(path, config, strict=strict, expected=expected)
    if path.exists():
        form = "wds" if path.suffix == ".tar" else "csv"
        raise BadData(f"{source} is a file; DATA is a folder with a subfolder of images for each class, or {form}:FILE")
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
    if not source.partition(":")[2 if source.startswith(_FILE_PREFIXES) else 0]:
        raise InvalidInput(f"DATA '{source}' names nothing; name a data set, or a folder: . is the current one")


def place_of(source: str) -> Path | None:
    """The path or pattern that DATA names; None for a named data set, made-up images, the Hub, and remote shards."""
    form, colon, rest = source.partition(":")
    if source in NAMED or source in ("", "imagenet") or source.startswith("synthetic:"):
        return None
    if form == "wds" and is_remote(rest):
        return None
    if colon and form in _FILE_FORMS:
        if not rest:  # `load` refuses it; the empty path would be the current folder
            return None
        path = expanded(rest)
        return path if form != "hf" or path.is_absolute() or path.exists() else None
    return expanded(source)


def located(config: DataConfig) -> DataConfig:
    """`config` with absolute paths, for use from any working directory. A path that does not exist stays as given.

    So does a pattern where the working directory's own name would be read as part of it.
    """
    changes = {}
    place = place_of(config.source)
    is_pattern = config.source.startswith("wds:") and not re.search(r"[][*?{}]", os.getcwd())
    if place is not None and (place.exists() or is_pattern):
        form, colon, _ = config.source.partition(":")
        changes["source"] = f"{form}:{place.absolute()}" if colon and form in _FILE_FORMS else str(place.absolute())
    if config.image_root is not None and (root := expanded(config.image_root)).exists():
        changes["image_root"] = str(root.absolute())
    return config.model_copy(update=changes)


def same_source(one: str, other: str) -> bool:
    """Whether two DATA name the same files or the same named data set, however they are written."""
    places = place_of(one), place_of(other)
    if places[0] is None or places[1] is None:
        return one == other
    forms = [source.partition(":")[0] if source.startswith(_FILE_PREFIXES) else "" for source in (one, other)]
    return forms[0] == forms[1] and places[0].resolve() == places[1].resolve()


def missing(config: DataConfig) -> tuple[str, Path] | None:
    """What of data.source and data.image_root names a path that does not exist, and the path; patterns are not tried.

    Named as it is set: `data.source=csv:`.
    """
    place = None if config.source.startswith("wds:") else place_of(config.source)
    if place is not None and not place.exists():
        form = config.source.partition(":")[0] + ":" if config.source.startswith(_FILE_PREFIXES) else ""
        return f"data.source={form}", place
    root = None if config.image_root is None else expanded(config.image_root)
    return None if root is None or root.exists() else ("data.image_root=", root)


def _title(source: str) -> str:
    """DATA for people: of a path its last part."""
    place = place_of(source)
    if place is None:
        return source
    name = place.name or place.absolute().name or source
    return source.partition(":")[0] + f":{name}" if source.startswith(_FILE_PREFIXES) else name


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
    if source.startswith("hf:"):
        return expanded(source.removeprefix("hf:")).exists()
    return (
        source in NAMED
        or source.startswith(("synthetic:", "csv:", "wds:"))
        or source == "imagenet"
        or expanded(source).is_dir()
    )


def digits() -> DataSet:
    """scikit-learn's 1,797 digits of 8 x 8 pixels (UCI, test part); nothing to download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Values are 0 to 16.
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = ArrayImages(pixels, torch.from_numpy(bunch.target.astype(np.int64)))
    return DataSet("digits", tuple(str(i) for i in range(10)), {"train": images}, mirror_safe=False, background="dark")


def synthetic(source: str) -> DataSet:
    """Learnable made-up images: each class a fixed smooth pattern under noise; the same for every run.

    For benchmarks and trying out a pipeline; accuracy on it means nothing.
    """
    match = _SYNTHETIC.fullmatch(source)
    if not match:
        raise InvalidInput(f"'{source}' is not synthetic:HxWxC:CLASSES[:COUNT], such as synthetic:32x32x3:10:2000")
    height, width, channels, classes = (int(match[key]) for key in ("height", "width", "channels", "classes"))
    count = int(match["count"] or 100 * classes)
    if min(height, width, channels) < 1 or classes < 2 or count < 2 * classes:
        raise InvalidInput(f"'{source}' needs a size of 1 or more, 2 classes or more, and 2 images a class or more")
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((classes, channels, 4, 4), dtype=np.float32))
    patterns = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").numpy()
    labels = np.arange(count) % classes
    pixels = np.empty((count, channels, height, width), dtype=np.uint8)
    for i, label in enumerate(labels):  # image by image: float noise for all of them at once may not fit in memory
        noise = random.random((channels, height, width), dtype=np.float32)
        pixels[i] = 255 * (0.5 * patterns[label] + 0.5 * noise)
    images = ArrayImages(torch.from_numpy(pixels), torch.from_numpy(labels))
    return DataSet(source, tuple(f"class{i}" for i in range(classes)), {"train": images})


def _imagenet(data_dir: Path) -> Path:
    for name in ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"):
        if (data_dir / name / "train").is_dir():
            return data_dir / name
    raise BadData(
        f"no {data_dir / 'imagenet' / 'train'}: ImageNet cannot be downloaded without an account; put "
        "its train/ and val/ there, one folder for each class, or pass --data-dir"
    )
