"""config.json beside the weights, as timm and transformers write it: classes, task and preprocessing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from densekit.errors import BadWeights
from densekit.parsing import Malformed, read_json

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# What makes another function of the same weights.
_ARGUMENTS = ("act_layer", "norm_layer", "aa_layer")
_POOLS = ("avg", "fast", "", None)
_TASKS: Mapping[str, Literal["single-label", "multi-label"]] = {
    "single_label_classification": "single-label",
    "multi_label_classification": "multi-label",
}


@dataclass(frozen=True)
class ConfigBeside:
    """What it says; None and () where it does not."""

    num_classes: int | None = None
    classes: tuple[str, ...] = ()
    task: Literal["single-label", "multi-label"] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: tuple[int, int] | None = None
    """(height, width)."""
    resize: int | None = None
    """Pixels of the shorter side before the middle is cut out."""
    notes: tuple[str, ...] = ()
    """What densekit does otherwise."""


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder of timm's or transformers'. Raises BadWeights for any other folder."""
    if (folder / "saved_model.pb").exists():
        raise BadWeights(
            f"{folder} is a SavedModel of TensorFlow; load it there, and save the weights: model.save('weights.keras')"
        )
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise BadWeights(f"{folder} is a folder; name the file of weights in it")
    if "preprocessing" in (_tree(folder / CONFIG) or {}):
        raise BadWeights(f"{folder} is a model folder of densekit already; use it: densekit predict {folder} IMAGE")
    return found


def read_beside(weights: Path) -> ConfigBeside | None:
    """What config.json says, where timm or transformers wrote it for `weights`. Raises BadWeights."""
    path = weights.with_name(CONFIG)
    tree = _tree(path) if weights.name in _WEIGHTS else None
    if tree is None or not tree.keys() & {"pretrained_cfg", "architecture", "architectures"}:
        return None
    try:
        return _parsed(tree, path)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise BadWeights(f"{path} is not as timm writes it ({error}); fetch it again, or move it away") from error


def _tree(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        tree = read_json(path)
    except (OSError, Malformed) as error:
        raise BadWeights(f"cannot read {path}: {error}; fetch it again, or move it away") from error
    return tree if isinstance(tree, dict) else None


def _parsed(tree: dict[str, Any], path: Path) -> ConfigBeside:
    given = tree.get("pretrained_cfg") or {}
    _refuse_other_functions(tree, path)
    mean, std = (tuple(float(value) for value in given.get(key) or ()) for key in ("mean", "std"))
    if len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std, default=1.0) <= 0:
        raise ValueError(f"mean {mean} and std {std}")
    size = given.get("input_size")
    crop = float(given.get("crop_pct") or 1)
    count = tree.get("num_classes", tree.get("num_labels", given.get("num_classes")))
    return ConfigBeside(
        num_classes=None if count is None else int(count),
        classes=_names(tree, given),
        task=_TASKS.get(tree.get("problem_type") or ""),
        mean=mean,
        std=std,
        image_size=(int(size[1]), int(size[2])) if size else None,
        resize=math.floor(min(size[1:]) / crop) if size and "crop_pct" in given else None,
        notes=tuple(_otherwise(given)),
    )


def _refuse_other_functions(tree: dict[str, Any], path: Path) -> None:
    arguments = tree.get("model_args") or {}
    changed = {name: arguments[name] for name in _ARGUMENTS if arguments.get(name)}
    if (pool := arguments.get("global_pool", tree.get("global_pool"))) not in _POOLS:
        changed["global_pool"] = pool
    for name, value in changed.items():
        raise BadWeights(
            f"{path}: the network was built with {name}={value}, which densekit's has no place for; no densekit "
            "network has these weights"
        )


def _names(tree: dict[str, Any], given: dict[str, Any]) -> tuple[str, ...]:
    names = tree.get("label_names") or given.get("label_names") or tree.get("labels")
    if names is None and (numbered := tree.get("id2label")):
        names = [numbered[str(i)] for i in range(len(numbered))]
    return tuple(str(name) for name in names or ())


def _otherwise(given: dict[str, Any]) -> list[str]:
    notes = []
    if (way := given.get("interpolation", "bilinear")) != "bilinear":
        notes.append(
            f"interpolation: {way} in config.json; densekit scales bilinearly, so probabilities differ a little"
        )
    if (mode := given.get("crop_mode", "center")) != "center":
        notes.append(f"crop: {mode} in config.json; densekit cuts out the middle")
    if (size := given.get("test_input_size")) is not None:
        notes.append(f"size: config.json recommends {size[1]}x{size[2]} for tests, --image-size {size[1]}")
    return notes
