"""`densekit import` as a function."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from densekit import atomic
from densekit.config import DenseNetConfig, Preprocessing
from densekit.data.prepare import resize_for
from densekit.default_dtype import float32_default
from densekit.errors import BadData, InvalidInput
from densekit.folders import expanded
from densekit.models import build
from densekit.parsing import parse_json
from densekit.version import __version__
from densekit.weights import ModelCard, save_model
from densekit.weights.foreign import Imported, MappingReport, import_network
from densekit.weights.foreign.infer_task import IMAGENET_CLASSES, InferredTask, Task, infer_task
from densekit.weights.foreign.normalisation import IMAGENET

_DECODED = (1, 3, 4)  # channels of the images that densekit reads


@dataclass(frozen=True)
class ImportedModel:
    """A model folder made from a foreign file."""

    folder: Path
    card: ModelCard
    account: MappingReport
    """What became of every tensor."""
    layout: str
    """Whose names they were."""
    notes: tuple[str, ...]
    """What a person should know."""


@float32_default()
def import_model(
    file: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    key: str | None = None,
    ignore: Sequence[str] = (),
    head: bool = True,
    multi_label: bool = False,
    single_label: bool = False,
) -> ImportedModel:
    """Import a checkpoint of another library or repository as a model folder.

    Args:
        file: the checkpoint.
        out: a new folder.
        model: a network's name. None: inferred from the shapes of the tensors.
        classes: class names, or a file with them (one a line, or JSON). None: numbers.
        mean: of each channel, pixels in [0, 1]. None: what the file shows, else ImageNet's, which is reported.
        std: likewise.
        image_size: pixels of the square input. None: what the file or the network's name shows.
        key: which of several networks in the file.
        ignore: names of tensors that the network does not need; patterns with *.
        head: False leaves the classifier out: weights to start a training from.
        multi_label: an image may be of any number of classes (sigmoid).
        single_label: an image is of exactly one class (softmax).

    Returns:
        The folder, and where each tensor of the file went.

    Raises:
        BadWeights: a file that is damaged, unsafe, or not completely understood.
        InvalidInput: wrong arguments, or a file that does not show which of the two tasks it is for.
    """
    file, out = expanded(file), expanded(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InvalidInput(f"--out {out} exists and is not empty; name a new folder")
    if (mean is None) != (std is None):
        raise InvalidInput("--mean and --std go together: give both, or neither")
    if multi_label and single_label:
        raise InvalidInput("--multi-label and --single-label exclude each other; give one of them")
    asked: Task | None = "multi-label" if multi_label else "single-label" if single_label else None
    found = import_network(file, model=model, key=key, ignore=ignore, head=head)
    task = infer_task(found, asked, str(file))
    told_size = (image_size, image_size) if image_size else found.image_size
    preprocessing, about_pixels = _preprocessing(found, mean, std, told_size or found.config.image_size)
    names, about_names = _classes(found, classes)
    config = found.config.model_copy(update={"image_size": preprocessing.size})
    with torch.device("meta"):
        build(config)  # refuses a size that its transitions would halve to nothing
    card = ModelCard(
        model=config,
        classes=names,
        preprocessing=preprocessing,
        task=task.task,
        task_known=task.known,
        provenance=_provenance(found, file, about_pixels),
    )
    try:
        with atomic.fresh_folder(out) as folder:
            save_model(folder, found.state, card)
    except OSError as error:
        raise BadData(f"cannot write {out}: {error.strerror}; name a folder with --out that can be written") from error
    notes = [*_notes(found, card, task), f"images: {about_pixels}"]
    if not told_size and not found.published:
        height, width = preprocessing.size
        notes.append(f"size: {height}x{width} pixels are assumed; if it was another: --image-size")
    if about_names:
        notes.append(f"classes: {about_names}")
    return ImportedModel(out, card, found.account, found.match.layout.name, tuple(notes))


def _preprocessing(
    found: Imported, mean: Sequence[float] | None, std: Sequence[float] | None, size: tuple[int, int]
) -> tuple[Preprocessing, str]:
    """And where mean and deviation are from."""
    channels, beside = found.config.in_channels, found.beside
    if mean is not None and std is not None:
        _check_statistics(mean, std, channels)
        known, why = True, "mean and std as given"
    else:
        mean, std, known, why = _statistics(found)
    resize = beside.resize if beside is not None and size == beside.image_size else None
    if resize is None:
        resize = min(size) if found.is_xray else resize_for(size)
    return Preprocessing(
        channels=channels, size=size, resize=resize, mean=tuple(mean), std=tuple(std), known=known
    ), why


def _check_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    for option, values in (("--mean", mean), ("--std", std)):
        if len(values) != channels:
            raise InvalidInput(f"{option} has {len(values)} values; the network reads {channels} channels, one each")
        if not all(map(math.isfinite, values)):
            raise InvalidInput(f"{option} {','.join(map(str, values))}: give finite numbers")
    if min(std) <= 0:
        raise InvalidInput(f"--std {','.join(map(str, std))}: a deviation is above 0")


def _statistics(found: Imported) -> tuple[tuple[float, ...], tuple[float, ...], bool, str]:
    """Mean, std, whether something proves them, and where they are from: names alone prove nothing."""
    channels, beside = found.config.in_channels, found.beside
    if beside is not None and len(beside.mean) == channels:
        return beside.mean, beside.std, True, "mean and std are those of config.json"
    if not found.candidates:
        why = "mean and std are unknown, pixels stay 0 to 1; give those it was trained with: --mean, --std"
        return (0.0,) * channels, (1.0,) * channels, False, why
    likeliest, *others = found.candidates
    if found.published or found.is_xray:
        return likeliest.mean, likeliest.std, True, f"mean and std are {likeliest.source}"
    also = f"; also in use with these names: {', '.join(map(str, others))}" if others else ""
    why = f"mean and std are assumed to be {likeliest}, which the names suggest but do not prove{also}"
    return likeliest.mean, likeliest.std, False, f"{why}; give those it was trained with: --mean, --std"


def _classes(found: Imported, given: str | Path | Sequence[str] | None) -> tuple[tuple[str, ...], str]:
    """Names in the order of the logits, and what to know about them."""
    count = found.config.num_classes
    if given is not None:
        names = _read_classes(expanded(given)) if isinstance(given, str | Path) else tuple(given)
        if len(names) != count:
            one = " (the class whose probability its one output is)" if count == 1 else ""
            raise InvalidInput(
                f"--classes has {len(names)} names, and the network {count} classes; give one for each{one}"
            )
        return names, ""
    if not count:
        return (), "none, as there is no classifier; start a training from it with --init"
    if found.beside is not None and found.beside.classes:
        return found.beside.classes, ""
    if count == IMAGENET_CLASSES and IMAGENET in found.candidates:
        from torchvision.models import DenseNet121_Weights

        doubt = "" if found.published else "ImageNet's names, as there are 1000; if they are others: --classes FILE"
        return tuple(DenseNet121_Weights.IMAGENET1K_V1.meta["categories"]), doubt
    # Not bare numbers: digits have such names, and `train --init` would take the head for theirs.
    names = tuple(f"class {i}" for i in range(count))
    return (
        names,
        f"numbered {f'0 to {count - 1}' if count > 1 else '0'}, as the file has no names; give them: --classes FILE",
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    """A name a line; or JSON: a list, or numbers to names (Keras: to identifiers and names)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree: Any = parse_json(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"cannot read --classes {path}: {reason}; it needs a name a line, or a JSON list") from error
    if isinstance(tree, dict):
        try:
            tree = [tree[str(i)] for i in range(len(tree))]
        except KeyError as error:
            raise InvalidInput(f"--classes {path} has no class {error}; it needs all numbers from 0 on") from error
    names = [name[-1] if isinstance(name, list) and name else name for name in tree] if isinstance(tree, list) else []
    while names and not names[-1]:
        names.pop()  # empty lines at the end
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidInput(f"--classes {path} is no list of names; it needs a name a line, or a JSON list")
    return tuple(names)


def _notes(found: Imported, card: ModelCard, task: InferredTask) -> list[str]:
    notes = [f"task: {task.task}; {task.why}"] if card.classes else []
    if isinstance(found.config, DenseNetConfig):
        notes += _about_wiring(found, found.config)
    if found.match.by_order and not found.wired:
        notes.append(
            "names: unknown, matched by order and shapes, which do not show in which order maps are concatenated, nor "
            "what has no weights; measure it before you trust it: densekit evaluate"
        )
    if found.epsilon_assumed and isinstance(found.config, DenseNetConfig):
        notes.append(f"epsilon: {found.config.norm_eps}, as keras.applications has it; the file does not say")
    if found.match.head_by_shape:
        notes.append("classifier: known by its shape, not its name")
    if card.task == "multi-label" and len(card.classes) > 1:
        notes.append("outputs: classes that do not exclude each other, each present from a probability of 1/2 on")
    if found.config.in_channels not in _DECODED:
        notes.append(f"channels: {found.config.in_channels}, but pictures are read with 1, 3 or 4; for tensors alone")
    if found.beside is not None:
        notes.extend(found.beside.notes)
    if found.left:
        notes.append(f"left in the file: {', '.join(found.left)}")
    return notes


def _about_wiring(found: Imported, config: DenseNetConfig) -> list[str]:
    """What is known, and what is assumed, of that which has no weights."""
    notes = []
    if found.wired:
        notes.append("wiring: the file's config lists all layers, and they are wired as here")
    elif not found.published:
        stem = "3x3, stride 1, no pooling" if config.stem == "cifar" else "7x7, stride 2, then a max pooling"
        concatenation = "new maps first" if found.match.layout.new_first else "new maps last"
        relu = "a ReLU" if config.transition_relu else "no ReLU"
        notes.append(
            f"assumed, as weights do not show it: stem {stem}; concatenation with {concatenation}; {relu} and an "
            f"average pooling of 2x2 in transitions; a ReLU before every other convolution and the global average "
            f"pooling; epsilon {config.norm_eps}; if any of this is wrong, so are its predictions"
        )
    if found.folded:
        notes.append(
            f"biases: {found.folded} of convolutions folded into the running means of the batch norms that read them; "
            "the same function in evaluation, and in training batch norms cancel such biases"
        )
    return notes


def _provenance(found: Imported, file: Path, about_pixels: str) -> dict[str, Any]:
    account = found.account
    return {
        "imported": {
            "file": file.name,
            "sha256": found.sha256,
            "names": found.match.layout.name,
            "matched": len(account.matched),
            "converted": len(account.converted),
            "made": len(account.made),
            "aside": account.aside,
            "images": about_pixels,
        },
        "densekit": __version__,
    }
