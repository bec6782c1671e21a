"""Files that are no checkpoint densekit reads: each kind by its first bytes or its parts, with what to do."""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from densekit.errors import BadWeights
from densekit.weights.foreign.hdf5 import UNREADABLE

_HEAD_BYTES = 512
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"
_WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".h5", ".keras", ".tar", ".pkl")
_SHARD = re.compile(r".*-\d{5}-of-(\d{5})\.\w+")

_JOIN = "join their tensors in one file first, with safetensors.torch.save_file, and import that"


class Format(NamedTuple):
    """A kind of file."""

    is_it: Callable[[bytes, str], bool]
    """By its first bytes and its suffix in lower case."""
    name: str
    advice: str


def _starts(*starts: bytes) -> Callable[[bytes, str], bool]:
    return lambda head, suffix: head.startswith(starts)


def _text(*starts: bytes) -> Callable[[bytes, str], bool]:
    return lambda head, suffix: head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(starts)


def _suffix(*suffixes: str) -> Callable[[bytes, str], bool]:
    return lambda head, suffix: suffix in suffixes


def _packed(tool: str) -> tuple[str, str]:
    return "a compressed file", f"unpack it first, {tool}, and import what comes out"


# ONNX begins with its version, then the producer or the graph; a SavedModel, too, whose version is 1.
_ONNX = tuple(bytes([8, version, field]) for version in range(2, 30) for field in (0x12, 0x1A, 0x3A, 0x42))
# A map whose first key is "params"; a map of none would be a pickle.
_FLAX = tuple(bytes([size]) + b"\xa6params" for size in range(0x81, 0x90))
_IN_TENSORFLOW = "load it in TensorFlow, and save the weights for Keras: model.save('weights.keras')"

FORMATS = (
    Format(
        _starts(b"version https://git-lfs.github.com/"),
        "a Git LFS pointer, which stands for the weights",
        "fetch them: git lfs install, then git lfs pull",
    ),
    Format(
        _starts(b"/annex/objects/"), "a git-annex pointer, which stands for the weights", "fetch them: git annex get"
    ),
    Format(
        _text(b"<!doctype html", b"<html", b"<head", b"<!--"),
        "a web page (HTML)",
        "download the file itself, not its page: a page to log in or to confirm may have come instead",
    ),
    Format(
        _text(b"<?xml", b"<error"),
        "XML: a server's error, or the graph of an OpenVINO model",
        "download the weights themselves, as .pth, .safetensors, .h5 or .keras",
    ),
    Format(
        _text(b"{", b"["),
        "JSON: a config, an index of shards, or a server's error",
        f"name the file of weights; where there are several: {_JOIN}",
    ),
    Format(
        _starts(*_ONNX),
        "an ONNX graph, in which batch norms may be folded and names lost",
        f"import the weights that it was exported from: {_SAVE}",
    ),
    Format(_starts(b"\x08\x01\x12"), "a graph of TensorFlow", _IN_TENSORFLOW),
    Format(_suffix(".pb", ".index", ".meta"), "a graph or checkpoint of TensorFlow", _IN_TENSORFLOW),
    Format(
        lambda head, suffix: head[4:8] == b"TFL3",
        "a TensorFlow Lite graph",
        f"import the weights that it was converted from; {_IN_TENSORFLOW}",
    ),
    Format(
        _starts(*_FLAX),
        "msgpack, as Flax saves weights",
        "load it in Flax, and save it with names and layout of torch's DenseNet",
    ),
    Format(
        _starts(b"\x93NUMPY"),
        "a NumPy array",
        "put all arrays into a dict of names and tensors, and save that: torch.save(tensors, 'weights.pth')",
    ),
    Format(
        lambda head, suffix: suffix == ".t7" or head.startswith(b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1"),
        "a file of Torch7 (Lua)",
        "load it with the package torchfile, and save names and tensors: torch.save(tensors, 'weights.pth')",
    ),
    Format(_suffix(".caffemodel"), "a Caffe network", f"convert it to torch, mind its BGR pixels, and {_SAVE}"),
    Format(
        _starts(b"\x12\x01\0\0\0\0\0\0"), "a file of MXNet", "convert it to torch, and save the state dict: " + _SAVE
    ),
    Format(
        _starts(b"MATLAB"), "a MATLAB file", "save its arrays as tensors by name: torch.save(tensors, 'weights.pth')"
    ),
    Format(_starts(b"GGUF"), "a GGUF file", "import the weights that it was converted from: " + _SAVE),
    Format(_starts(b"\x1f\x8b"), *_packed("gunzip -k")),
    Format(_starts(b"BZh"), *_packed("bunzip2 -k")),
    Format(_starts(b"\xfd7zXZ"), *_packed("unxz -k")),
    Format(_starts(b"\x28\xb5\x2f\xfd"), *_packed("unzstd")),
    Format(_starts(b"7z\xbc\xaf"), *_packed("7z x")),
    Format(_starts(b"Rar!"), *_packed("unrar x")),
    Format(
        lambda head, suffix: head[257:262] == b"ustar",
        "a tar archive",
        "unpack it, tar xf, and import the file of weights in it",
    ),
)


def refuse_shards(path: Path) -> None:
    """Raises BadWeights for one of several files that make up a network together."""
    shard = _SHARD.fullmatch(path.name)
    if shard is not None and int(shard[1]) > 1:
        raise BadWeights(f"{path} is one of {int(shard[1])} shards; {_JOIN}")


def refuse_other_formats(path: Path) -> None:
    """Raises BadWeights for a file of a known kind that no reader here is for."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PK"):
        _refuse_archives(path)
    for kind in FORMATS:
        if kind.is_it(head, path.suffix.lower()):
            raise BadWeights(f"{path} is {kind.name}, not a file of weights; {kind.advice}")


def _refuse_archives(path: Path) -> None:
    """Zip archives that are neither torch's nor Keras's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except UNREADABLE:
        return  # damaged, which is said where archives are read
    kind = _archive_kind(names)
    if kind is not None:
        raise BadWeights(f"{path} is {kind}")


def _archive_kind(names: Sequence[str]) -> str | None:
    """And what to do; None for what may be torch's."""
    parts = {name.partition("/")[2] or name for name in names}
    if {"archive_format", "serialized_exported_program.json"} & parts or "models/model.json" in parts:
        return (
            "an exported program (torch.export), not weights; where you trust it, load it and save its state dict: "
            "torch.save(torch.export.load(FILE).state_dict, 'weights.pth')"
        )
    if "constants.pkl" in parts:
        return (
            "a TorchScript program, not weights; where you trust it, load it and save its state dict: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if names and all(name.endswith(".npy") for name in names):
        return (
            "an archive of NumPy arrays (.npz), not a file of weights; save them by name as tensors: "
            "torch.save({name: torch.from_numpy(a) for name, a in np.load(FILE).items()}, 'weights.pth')"
        )
    if "data.pkl" in parts:
        return None
    inside = next((name for name in names if name.lower().endswith(_WEIGHTS)), None)
    if inside is None:
        return "a zip archive without weights in it; name a file of weights (.pth, .safetensors, .h5, .keras)"
    return f"a zip archive with {inside} in it; unpack it first, unzip, and import that"
