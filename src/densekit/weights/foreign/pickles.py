"""Checkpoints of torch.save: pickles of which only tensors and plain containers are taken, never code.

There is no way round weights_only here, and there shall be none.
"""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densekit.errors import BadWeights, InvalidInput
from densekit.weights.foreign.hdf5 import UNREADABLE
from densekit.weights.foreign.plain_tensors import checked
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint

_ZIP = b"PK\x03\x04"
_DEPTH = 4  # of wrappers around a state dict
_RESAVE = "where you trust it, load it yourself and save its state_dict: torch.save(model.state_dict(), 'weights.pth')"


def read(path: Path, key: str | None, room: int) -> RawCheckpoint:
    """The state dict in `path`, alone or in wrappers; `key` chooses one of several. Raises BadWeights, InvalidInput."""
    _check_sums(path, room)
    tree = _load(path)
    networks = dict(_networks(tree))
    if not networks:
        raise BadWeights(f"{path} holds no network: {_contents(tree)}; {_RESAVE}")
    state, place = _choose(networks, key, path)
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    beside = [str(name) for name in tree if not place or name != place[0]] if place else []
    left = (*beside, *(str(name) for name in state if name not in tensors))
    return RawCheckpoint(checked(tensors, room, path), "torch", "execution", left)


def _check_sums(path: Path, room: int) -> None:
    """Raises BadWeights where a part of an archive is not what its checksum says, which torch does not look at."""
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:  # by which torch tells its older format, which has no checksums
            return
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > room:
                raise MemoryError
            damaged = archive.testzip()
    except UNREADABLE as error:
        raise BadWeights(f"{path} is damaged ({str(error) or 'it ends early'}); fetch it again") from error
    if damaged is not None:
        raise BadWeights(
            f"{path}: {damaged} in it is not what its checksum says; the file is damaged, or was written without "
            "checksums (torch.serialization.set_crc32_options(False)): fetch it again, or save it again with them"
        )


def _load(path: Path) -> Any:
    try:
        # timm keeps its command line in its checkpoints: a bag of plain values, without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's age or kind: what matters about it is an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise BadWeights(_refusal(path, str(error))) from error
    except Exception as error:  # whatever the bytes of a stranger make of torch's reader
        reason = " ".join(str(error).split())
        if "alloc" in reason:
            raise MemoryError from error
        raise BadWeights(
            f"{path} is damaged, or no file of weights that densekit knows (.pth, .safetensors, .h5, .keras): "
            f"{reason[:200] or type(error).__name__}; fetch it again"
        ) from error


def _refusal(path: Path, reason: str) -> str:
    name = re.search(r"(?:GLOBAL|Unsupported class|function) ([\w.]+)", reason)
    if name is None:
        return f"{path} is damaged, or no file of weights: it holds something else than tensors; {_RESAVE}"
    return f"{path} holds more than weights: loading it would run {name[1]}, which densekit never does; {_RESAVE}"


def _networks(tree: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping of names to tensors with a convolution among them, which an optimizer's state has not by name."""
    if not isinstance(tree, Mapping) or len(place) > _DEPTH:
        return
    if any(isinstance(name, str) and isinstance(value, Tensor) and value.dim() > 2 for name, value in tree.items()):
        yield place, tree
        return
    for name, value in tree.items():
        if isinstance(name, str):
            yield from _networks(value, (*place, name))


def _contents(tree: Any) -> str:
    """What is there instead, in the words of an error."""
    parts = [tree, *tree.values()] if isinstance(tree, Mapping) else [tree]
    for part in parts:
        if isinstance(part, Mapping) and "param_groups" in part:
            return "the state of an optimizer is in it, which has no names"
        if isinstance(part, Mapping) and "shadow_params" in part:
            return "averaged parameters are in it, which have no names: copy them into the model first (ema.copy_to)"
    return "no convolution's weights are in it"


def _choose(
    networks: dict[tuple[str, ...], Mapping[Any, Any]], key: str | None, path: Path
) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    if key is None and len(networks) == 1:
        place, state = next(iter(networks.items()))
        return state, place
    names = {".".join(place): place for place in networks}
    if key is None:
        raise InvalidInput(
            f"{path} holds {len(names)} networks, {' and '.join(names)}; choose one with --key {next(iter(names))}"
        )
    if key not in names:
        known = ", ".join(name or "the whole file" for name in names)
        raise InvalidInput(f"--key {key}: {path} has no network there; it has {known}")
    return networks[names[key]], names[key]
