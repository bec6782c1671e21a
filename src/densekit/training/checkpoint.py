"""A checkpoint: a model folder plus all that an exact continuation needs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from densekit import atomic, strict_json
from densekit.data.sets import SkipList
from densekit.errors import BadWeights
from densekit.runs.run_folder import STATE_JSON
from densekit.training.state import Progress, Totals, TrainState
from densekit.weights import ModelCard, image_hashes, save_model
from densekit.weights.folder import WEIGHTS, load_state, plain, read_card
from densekit.weights.image_hashes import Hashes

STATE_TENSORS = "state.safetensors"
_FORMAT = 3


@dataclass(frozen=True)
class Checkpoint:
    """What was read of a checkpoint; its files were whole."""

    document: dict[str, Any]
    """state.json: progress, and under `made_by` what the run must still be for an exact continuation."""
    tensors: bytes
    weights: bytes
    classes: tuple[str, ...] | None = None
    """Of its card; None where that cannot be read."""


def save_checkpoint(
    folder: Path,
    state: TrainState,
    card: ModelCard,
    made_by: Mapping[str, Any],
    skipped: SkipList | None = None,
    hashes: Hashes | None = None,
) -> None:
    """Writes `folder` anew; a crash leaves the old or the new one. There is no random state: see `training.rng`."""
    packed = save(plain(state.tensors()))
    with atomic.new_folder(folder) as fresh:
        weights = save_model(fresh, state.result_model.state_dict(), card)
        atomic.write(fresh / STATE_TENSORS, packed)
        image_hashes.write(fresh, hashes or {})
        document: dict[str, Any] = {
            "format": _FORMAT,
            "optimizer": type(state.optimizer).__name__,
            "progress": asdict(state.progress),
            "averaged": int(state.average.n_averaged) if state.average is not None else None,
            "scaler": state.scaler.state_dict(),
            "sha256": {WEIGHTS: weights, STATE_TENSORS: _sha256(packed)},
            "skipped": skipped.rows() if skipped is not None else [],
            "made_by": made_by,
        }
        document["sha256"][STATE_JSON] = _own_sha256(document)
        atomic.write(fresh / STATE_JSON, strict_json.dumps(document, indent=2) + "\n")


def read_checkpoint(folder: Path) -> Checkpoint:
    """Raises BadWeights for a checkpoint that is missing, or not what was written."""
    folder = atomic.current(folder)
    try:
        document: dict[str, Any] = json.loads((folder / STATE_JSON).read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise BadWeights(f"{folder} was written by another version of densekit, which can go on with it")
        checkpoint = Checkpoint(
            document, (folder / STATE_TENSORS).read_bytes(), (folder / WEIGHTS).read_bytes(), _classes(folder)
        )
        expected = dict(document["sha256"])
        Progress(**document["progress"])
        own = _own_sha256(document)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadWeights(f"no usable checkpoint in {folder} ({error}); train again") from error
    actual = {
        WEIGHTS: _sha256(checkpoint.weights),
        STATE_TENSORS: _sha256(checkpoint.tensors),
        STATE_JSON: own,
    }
    for name, digest in actual.items():
        if expected.get(name) != digest:
            raise BadWeights(f"{folder / name} is not what training wrote: its sha256 differs; train again")
    return checkpoint


def shapes_differ(checkpoint: Checkpoint, model: nn.Module) -> str:
    """The first tensor of `model` that the checkpoint lacks or has in another shape; empty where all fit."""
    theirs, own = _below(load(checkpoint.tensors), "model."), model.state_dict()
    for name in (*own, *theirs):
        shapes = [tuple(state[name].shape) if name in state else None for state in (theirs, own)]
        if shapes[0] != shapes[1]:
            return f"{name}: {shapes[0] or 'missing'} -> {shapes[1] or 'missing'}"
    return ""


def restore_checkpoint(checkpoint: Checkpoint, state: TrainState, source: Path) -> None:
    """Puts `state` where it was. Raises BadWeights when it is of another network; messages name `source`."""
    document = checkpoint.document
    try:
        tensors = load(checkpoint.tensors)
        weights = load(checkpoint.weights)
    except SafetensorError as error:
        raise BadWeights(f"{source} is damaged ({error}); train again") from error
    load_state(state.model, _below(tensors, "model."), source)
    if state.average is not None:
        load_state(state.average.module, weights, source)
        state.average.n_averaged.fill_(document["averaged"] or 0)  # none: the recipe had no average then
    _restore_optimizer(state, _below(tensors, "optimizer."), str(document["optimizer"]))
    if document["scaler"]:
        state.scaler.load_state_dict(document["scaler"])
    progress = document["progress"]
    state.progress = Progress(**(progress | {"totals": Totals(**progress["totals"])}))


def _restore_optimizer(state: TrainState, tensors: Mapping[str, Tensor], kind: str) -> None:
    """By name: groups, and with them torch's numbers of parameters, may have changed. Of another optimizer: nothing."""
    if kind != type(state.optimizer).__name__:
        return
    numbers = {id(p): i for i, p in enumerate(p for group in state.optimizer.param_groups for p in group["params"])}
    values: dict[int, dict[str, Tensor]] = {}
    parameters = dict(state.model.named_parameters())
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition(".")
        values.setdefault(numbers[id(parameters[parameter])], {})[key] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": values, "param_groups": groups})


def _classes(folder: Path) -> tuple[str, ...] | None:
    try:
        return read_card(folder).classes
    except BadWeights:
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _own_sha256(document: Mapping[str, Any]) -> str:
    """Of a state.json, without what it says of itself."""
    others = {name: digest for name, digest in document["sha256"].items() if name != STATE_JSON}
    return _sha256(strict_json.dumps({**document, "sha256": others}, sort_keys=True).encode())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
