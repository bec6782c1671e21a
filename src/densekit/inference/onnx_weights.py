"""The weights in an .onnx, read from its protobuf messages: onnxruntime does not give them, and onnx may be missing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Fields of onnx.proto: ModelProto.graph, GraphProto.initializer, and of TensorProto.
_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA = 2, 4, 8, 9
_BYTES = 2  # a length, then so many bytes
_FIXED = {1: 8, 5: 4}  # bytes, by protobuf's wire type
_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


def float_weights(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Names and values, flat, of the floating-point initializers that the file itself holds."""
    for number, graph in _fields(memoryview(path.read_bytes())):
        if number == _GRAPH:
            for field, tensor in _fields(graph):
                if field == _INITIALIZER:
                    parts = dict(_fields(tensor))
                    kind = _FLOATS.get(_varint(parts[_DATA_TYPE], 0)[0])
                    if kind is not None:
                        packed = parts.get(_RAW_DATA, parts.get(_FLOAT_DATA, memoryview(b"")))
                        yield bytes(parts[_NAME]).decode(), np.frombuffer(packed, kind)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Numbers and encoded values of a message's fields, by protobuf's wire types."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, start = key & 7, at
        if kind == _BYTES:
            length, start = _varint(message, at)
            at = start + length
        else:
            at = start + _FIXED[kind] if kind in _FIXED else _varint(message, start)[1]
        yield key >> 3, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
