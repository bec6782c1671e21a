"""Keras: whole models and weights in HDF5, and .keras archives. Nothing of Keras is needed, nor run."""

import json
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from densekit.errors import BadWeights
from densekit.optional_packages import import_package
from densekit.weights.foreign.keras_config import epsilons, image_size, last_activation, layers_of, refuse_strangers
from densekit.weights.foreign.keras_graph import graph_of
from densekit.weights.foreign.keras_layers import NESTED, kind_of
from densekit.weights.foreign.plain_tensors import checked
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint

WEIGHTS, CONFIG = "model.weights.h5", "config.json"
_CONFIG_BYTES = 16 * 2**20
_CHUNK = 2**20
# ValueError: names that are no UTF-8. RuntimeError: a packing that is not known, a password, JSON that is too deep.
# EOFError: a part that is said to be longer than the archive.
UNREADABLE = (KeyError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_OWN = "top_level_model_weights"  # what a network has beside its layers


def is_keras(path: Path) -> bool:
    """Whether an archive is a .keras file: torch's are zip archives too."""
    try:
        with zipfile.ZipFile(path) as archive:
            return WEIGHTS in archive.namelist()
    except UNREADABLE:
        return False


def read_keras(path: Path, folder: Path, room: int) -> RawCheckpoint:
    """A .keras archive; its weights are unpacked into `folder`. Raises BadWeights."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(WEIGHTS)
            if entry.file_size > room or archive.getinfo(CONFIG).file_size > _CONFIG_BYTES:
                raise BadWeights(f"{path} unpacks to more than weights in a file of its size need; fetch it again")
            config = json.loads(archive.read(CONFIG))
            with archive.open(entry) as packed, (folder / WEIGHTS).open("wb") as file:
                while chunk := packed.read(_CHUNK):
                    file.write(chunk)
    except UNREADABLE as error:
        raise BadWeights(
            f"{path} is damaged, or no .keras file ({str(error) or 'it ends early'}); fetch it again"
        ) from error
    return read(folder / WEIGHTS, config, room, path)


def read(path: Path, config: Any, room: int, shown: Path | None = None) -> RawCheckpoint:
    """An HDF5 file of Keras; `config` is the network's, where it is kept apart. Raises BadWeights, InvalidInput."""
    shown = shown or path
    h5py = import_package(str(shown), "h5py", extra="keras")
    try:
        with h5py.File(path, "r") as file:
            if config is None and "model_config" in file.attrs:
                config = json.loads(_text(file.attrs["model_config"]))
            if config and (kind_of(config) not in NESTED or "layers" not in config["config"]):
                raise BadWeights(
                    f"{shown} holds a {kind_of(config)}, whose config does not say how its layers are wired; save "
                    "keras.Model(inputs, outputs) of it, or its weights alone: model.save_weights('x.weights.h5')"
                )
            layers = list(layers_of(config)) if config else []
            refuse_strangers(layers, shown)
            graph = graph_of(config, str(shown)) if config else ()
            if "layers" in file:
                names, order = dict(_numbered(file["layers"], config)), "execution" if config else "kinds"
            else:
                names, order = dict(_by_layer(file, _alone(config))), "execution"
            arrays = {name: _array(file, place, room, shown) for name, place in names.items()}
    except BadWeights:
        raise
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise BadWeights(f"{shown} is damaged, or not a file of Keras ({error}); fetch it again") from error
    if not arrays:
        raise BadWeights(
            f"{shown} holds no weights of a Keras network; save it with model.save_weights('x.weights.h5')"
        )
    return RawCheckpoint(
        checked(arrays, room, shown),
        "keras",
        order,  # type: ignore[arg-type]  # one of the literals above
        epsilons=epsilons(layers),
        image_size=image_size(layers),
        activation=last_activation(layers),
        graph=graph,
    )


def _array(file: Any, place: str, room: int, shown: Path) -> torch.Tensor:
    """The data set at `place`, which must be in this very file."""
    import h5py

    node = file
    for step in place.split("/"):
        if not isinstance(node.get(step, getlink=True), h5py.HardLink):
            raise BadWeights(
                f"{shown}: {place} is kept in another place, which is not followed; save the weights again"
            )
        node = node[step]
    if not isinstance(node, h5py.Dataset) or node.is_virtual or node.external is not None:
        raise BadWeights(f"{shown}: {place} is kept in another file, which is not followed; save the weights again")
    if node.size is None or node.size * node.dtype.itemsize > room:
        raise BadWeights(f"{shown}: {place} is larger than the file can hold; fetch it again")
    return torch.from_numpy(node[()])


def _alone(config: Any) -> frozenset[str]:
    """The layers of a network that are no networks."""
    layers = config["config"]["layers"] if config else ()
    return frozenset(layer["config"]["name"] for layer in layers if kind_of(layer) not in NESTED)


def _by_layer(file: Any, alone: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(name, place) in the layout in which groups have the layers' names, and attributes their order.

    A weight of a layer in `alone` is called after it: TensorFlow 1 numbers its own name where the session had another.
    """
    root = "model_weights/" if "model_weights" in file else ""
    group = file[root] if root else file
    taken = set()
    own = [_OWN] if _OWN in group else []
    for layer in [*_attribute(group, "layer_names"), *own]:
        for weight in _attribute(group[layer], "weight_names"):
            name = weight.removesuffix(":0")
            if layer in alone or "/" not in name:
                name = f"{layer}/{name.rpartition('/')[2]}"
            if name in taken:
                name = f"{layer}/{name}"
            taken.add(name)
            yield name, f"{root}{layer}/{weight}"


def _attribute(group: Any, name: str) -> list[str]:
    """Keras cuts long lists into numbered pieces."""
    if name in group.attrs:
        return [_text(value) for value in group.attrs[name]]
    pieces: list[str] = []
    while (piece := f"{name}{len(pieces)}") in group.attrs:
        pieces.append(piece)
    return [_text(value) for piece in pieces for value in group.attrs[piece]]


def _numbered(group: Any, config: Any) -> Iterator[tuple[str, str]]:
    """(name, place) in the layout of Keras 3, which numbers layers by kind: layers/conv2d_3/vars/0."""
    yield from _walk(group, "layers", "", _named(config) if config else None)


def _walk(group: Any, place: str, prefix: str, known: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    for key in sorted(group, key=_natural) if known is None else [key for key in known if key in group]:
        layer = known[key] if known is not None else None
        name = layer["config"]["name"] if layer else key
        here = group[key]
        if "layers" in here:
            yield from _walk(
                here["layers"], f"{place}/{key}/layers", f"{prefix}{name}/", _named(layer) if layer else None
            )
            continue
        variables = list(here["vars"]) if "vars" in here else []
        parameters = _parameters(kind_of(layer) if layer else key, layer, len(variables))
        for number in sorted(variables, key=int):
            parameter = parameters[int(number)] if int(number) < len(parameters) else f"variable_{number}"
            yield f"{prefix}{name}/{parameter}", f"{place}/{key}/vars/{number}"


def _parameters(kind: str, layer: Mapping[str, Any] | None, count: int) -> list[str]:
    """What Keras numbers, in its order."""
    if "batchnormalization" not in kind.lower().replace("_", ""):
        return ["kernel", "bias"]
    settings = layer["config"] if layer else {}
    names = ["gamma"] * settings.get("scale", True) + ["beta"] * settings.get("center", True)
    names += ["moving_mean", "moving_variance"]
    return names if len(names) == count else []


def _named(config: Any) -> dict[str, Any]:
    """The layers of a network by the names that its file of weights gives them."""
    named, seen = {}, Counter[str]()
    for layer in config["config"]["layers"]:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", layer["class_name"]).lower()
        named[kind if not seen[kind] else f"{kind}_{seen[kind]}"] = layer
        seen[kind] += 1
    return named


def _natural(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition("_")
    return (kind, int(number)) if number.isdigit() else (name, 0)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
