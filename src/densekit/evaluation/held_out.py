"""The images of DATA that a model is measured on: never, without saying so, those it was trained with.

Images are compared by content: the folder may have another name or form, or hold only some of the training images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from densekit.config import DataConfig
from densekit.data import DataSet, Images
from densekit.data import load as load_data
from densekit.data.known_images import known_images
from densekit.data.sets import QUICKLY_READ, EncodedImages, kept_hashes
from densekit.data.sources.registry import at_hand, is_in_memory, missing, same_source
from densekit.data.sources.split_names import WITH_DEV
from densekit.data.split import divide
from densekit.data.together import together
from densekit.errors import BadData, DensekitError, InvalidInput, UnknownName
from densekit.formatting import counted
from densekit.inference.exported_network import is_exported
from densekit.parsing import read_json
from densekit.runs.run_folder import STATE_JSON
from densekit.weights import ModelCard, image_hashes, model_folder
from densekit.weights.image_hashes import Hashes

FINGERPRINTS = "image_fingerprints"
"""Of an exported file's provenance: those of the training images, by split."""
_LEARNED_FROM = ("train", "val")
_DIVISION = ("protocol", "val_fraction", "val_count", "test_fraction", "stratify", "limit")


@dataclass(frozen=True)
class TrainedWith:
    """What is known of the images that a model was trained with, by split; {} where nothing is."""

    hashes: Hashes
    fingerprints: Mapping[str, str]
    in_memory: bool = False
    """Whether the hashes are of pixels, as those of a data set in memory."""

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return bool(self.hashes or self.fingerprints)

    def same(self, divided: Mapping[str, Images]) -> bool:
        """Whether these are the same images in the same splits."""
        if self.hashes:
            return divided.keys() == self.hashes.keys() and all(
                np.array_equal(np.sort(images.content_hashes()), np.sort(self.hashes[name]))
                for name, images in divided.items()
            )
        return {name: images.fingerprint() for name, images in divided.items()} == self.fingerprints

    def learned_from(self, images: Images) -> NDArray[np.bool_]:
        """(N,): whether each image was one for training or validation."""
        used = [self.hashes[name] for name in _LEARNED_FROM if name in self.hashes]
        return known_images(images, np.concatenate(used), in_memory=self.in_memory)

    def division(self, data: DataSet) -> DataSet | None:
        """`data` in the splits of training, whichever labels are read; none where it has other images."""
        images = data.splits["train"]
        at = {name: np.flatnonzero(np.isin(images.content_hashes(), own)) for name, own in self.hashes.items()}
        if not at or [len(found) for found in at.values()] != [len(own) for own in self.hashes.values()]:
            return None
        if sum(map(len, at.values())) != len(images):
            return None
        return data.with_splits({name: images.subset(found) for name, found in at.items()})


@dataclass(frozen=True)
class Measured:
    """A split, its images, and what to tell people about the choice."""

    split: str
    images: Images
    config: DataConfig
    """By which the data are divided: the model's own settings where they are its own data."""
    notes: tuple[str, ...] = ()
    splits: NDArray[np.str_] | None = None
    """(N,): of `all`, the split that each image belongs to; none where the data have no splits."""

    def subset(self, indices: NDArray[np.int64]) -> Self:
        """The images at `indices`."""
        splits = None if self.splits is None else self.splits[indices]
        return replace(self, images=self.images.subset(indices), splits=splits)

    def split_of(self, sample: int) -> str:
        """The split that an image belongs to; `all` where the data have no splits."""
        return self.split if self.splits is None else str(self.splits[sample])


def is_own(card: ModelCard, data: str | None) -> bool:
    """Whether DATA names what the model was trained on, in any spelling."""
    return card.data is not None and (data is None or same_source(data, card.data.source))


def to_measure(
    model: str | Path,
    card: ModelCard,
    loaded: DataSet,
    config: DataConfig,
    split: str | None,
    *,
    data_dir: Path,
    settings: Mapping[str, Any],
    dividing: bool = False,
) -> Measured:
    """The images of `loaded` to measure a model on: its own test split, or what of other data it was not trained with.

    Other data are divided into splits that they do not bring only with `dividing`, or with settings of the division.
    Raises InvalidInput for a split that is not there, BadData where no image is left.
    """
    own = is_own(card, config.source)
    known = _trained_with(model, card, data_dir, search=not own)
    if not own and known and card.data is not None:
        division = {name: getattr(card.data, name) for name in _DIVISION if f"data.{name}" not in settings}
        alike = config.model_copy(update=division)
        if _same(known, loaded, alike):
            own, config = True, alike
    divided = None
    if own and set(loaded.splits) == {"train"} and not any(f"data.{name}" in settings for name in _DIVISION):
        divided = known.division(loaded)
    asked = dividing or any(f"data.{name}" in settings for name in _DIVISION)
    name, images = choose_split(loaded, config, split, dividing=own or asked, own=own, divided=divided)
    chosen = Measured(name, images, config)
    if name == "all":
        chosen = replace(chosen, splits=_membership(loaded, config, divided, own=own))
    if own and split is not None and name != "test":
        return replace(chosen, notes=(_used_for(name, images, known),))
    if known.hashes:
        if not own or not np.array_equal(images.content_hashes(), known.hashes.get(name, ())):
            return _unseen(chosen, known, loaded.name)
    elif not own or (known and not _same(known, loaded, config)):
        why = "these are not the images or splits of its training" if own else "it keeps no hashes of those"
        note = f"it is not known whether {model} was trained on some of these images of {loaded.name}: {why}"
        return replace(chosen, notes=(note,))
    return chosen


def choose_split(
    data: DataSet, config: DataConfig, split: str | None, *, dividing: bool, own: bool, divided: DataSet | None = None
) -> tuple[str, Images]:
    """The split of that name; None: the one to measure on. `own` data are those that the model was trained on.

    That is test, or all images of a folder that the model never saw; of `all` the splits are put together.
    With `dividing`, as for own data, a split that the data do not bring is taken from the training images;
    `divided` has the splits of own data where they are known. Raises UnknownName, and InvalidInput for a split that the
    data lack.
    """
    name = split if split is None or split in data.splits else WITH_DEV.get(split.lower(), split)
    if name is None and not own:
        name = next((each for each in ("test", "val") if each in data.splits), "all")
    if name == "all":
        return name, together(data.splits)
    if dividing and "train" in data.splits and (name == "train" or name not in data.splits):
        data = divided or divide(data, config)
    name = name or next(each for each in ("test", "val", "train") if each in data.splits)
    if name in data.splits:
        return name, data.splits[name]
    if name not in WITH_DEV:
        raise UnknownName("split", name, [*data.splits, "all"])
    raise InvalidInput(
        f"{data.name} has no {name} split, only {' and '.join(data.splits)}; {_instead(tuple(data.splits), name)}"
    )


def _instead(there: Sequence[str], name: str) -> str:
    """What to ask for in place of the split `name`."""
    if there == ("train",):
        return f"use --split all, or --set data.{name}_fraction=0.1 to divide the images as training does"
    return "use " + " or ".join(f"--split {split}" for split in (*there, "all") if split != "train")


def _membership(data: DataSet, config: DataConfig, divided: DataSet | None, *, own: bool) -> NDArray[np.str_] | None:
    """(N,): the split of each image of all of `data`, empty for one that `data.limit` leaves out.

    What training took from the training images of own data is found by content: it never divides identical images.
    None for other data that bring no splits.
    """
    if not own and set(data.splits) == {"train"}:
        return None
    kind = f"U{max(5, *map(len, data.splits))}"
    found = {name: np.full(len(images), name, dtype=kind) for name, images in data.splits.items()}
    if own and "train" in data.splits:
        keys, parts = data.splits["train"].content_hashes(), (divided or divide(data, config)).splits
        found["train"][:] = ""
        for name in ("train", *(parts.keys() - data.splits.keys())):
            found["train"][np.isin(keys, parts[name].content_hashes())] = name
    return np.concatenate(list(found.values()))


def _used_for(name: str, images: Images, known: TrainedWith) -> str:
    if name == "all":
        count = f"{int(known.learned_from(images).sum()):,}" if known.hashes else "some"
        return f"{count} of these {counted(len(images), 'image')} were used for training or validation"
    return f"the {name} split was used for {'validation' if name == 'val' else 'training'}"


def _unseen(chosen: Measured, known: TrainedWith, data: str) -> Measured:
    """Without the images that the model was trained or validated with, and how many these were."""
    used = known.learned_from(chosen.images)
    of = f"of the {counted(len(chosen.images), 'image')} of {data} ({chosen.split})"
    if used.all():
        raise BadData(
            f"all {of} were used for training or validation of this model; name data with other images, or leave DATA "
            "out to evaluate its own test split"
        )
    if not used.any():
        return chosen
    note = f"left out {int(used.sum()):,} {of}, as they were used for training or validation of this model"
    return replace(chosen.subset(np.flatnonzero(~used)), notes=(note,))


def _same(known: TrainedWith, loaded: DataSet, config: DataConfig) -> bool:
    if "train" not in loaded.splits:
        return False
    try:
        return known.same(divide(loaded, config).splits)
    except BadData:  # too few images to divide
        return False


def _trained_with(model: str | Path, card: ModelCard, data_dir: Path, *, search: bool) -> TrainedWith:
    """From the files beside the weights; else, where it may be searched for, from the training data themselves."""
    hashes: Hashes | None = None
    fingerprints: Mapping[str, str] = {}
    if is_exported(model):
        fingerprints = card.provenance.get(FINGERPRINTS, {})
    else:
        folder = model_folder(model)
        hashes = image_hashes.read(folder)
        fingerprints = fingerprints_in(folder)
    if hashes is None and search and card.data is not None:
        hashes = _read_again(card, card.data, fingerprints, data_dir)
    in_memory = card.data is not None and is_in_memory(card.data.source)
    return TrainedWith(hashes or {}, fingerprints, in_memory)


def fingerprints_in(folder: Path) -> Mapping[str, str]:
    """Of the training images by split, from the state beside a checkpoint; {} where there is none."""
    try:
        return dict(read_json(folder / STATE_JSON)["made_by"]["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a model folder without the state of training


def _read_again(card: ModelCard, config: DataConfig, fingerprints: Mapping[str, str], data_dir: Path) -> Hashes | None:
    """Hashes of the training data, if they are on this machine, read in seconds, and are still what they were."""
    if missing(config) is not None or not at_hand(config.source, data_dir):
        return None
    try:
        loaded = load_data(config, data_dir)
        stored = sum(each.stored_bytes() for each in loaded.splits.values() if isinstance(each, EncodedImages))
        if stored > QUICKLY_READ:
            return None
        splits = divide(loaded, config).splits
        found = {name: images.fingerprint() for name, images in splits.items()}
    except DensekitError:
        return None
    expected = card.provenance.get("training_images")
    if (fingerprints and found != fingerprints) or expected not in (None, len(splits["train"])):
        return None
    hashes = {name: kept for name, images in splits.items() if (kept := kept_hashes(images)) is not None}
    return hashes if len(hashes) == len(splits) else None
