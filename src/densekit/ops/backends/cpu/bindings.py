"""Calls the compiled kernels through the structures that kernels.h declares: the header is read, not repeated.

Every call is checked against the header's fields: their names, and each tensor's type, device and strides. A pointer
where a size is expected, or a strided vector, would not be noticed before it crashed or gave wrong numbers.
"""

import ctypes
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

HEADER = Path(__file__).parent / "kernels.h"
_STRUCT = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ +(.+?) ?(\w+);$", re.MULTILINE)
_KERNEL = re.compile(r"^KERNEL\((\w+)\)$", re.MULTILINE)
_MATRICES = ("Matrix", "ConstMatrix")
_VECTORS = {"float*": False, "const float*": True}  # and whether a copy will do


class Table(NamedTuple):
    """What a header declares."""

    fields: dict[str, dict[str, str]]
    """C types by field, by structure, in order."""
    structures: dict[str, type[ctypes.Structure]]
    kernels: tuple[str, ...]


@functools.cache
def read(header: Path = HEADER) -> Table:
    """The structures and kernels of a header in the form that kernels.h describes."""
    text = header.read_text()
    fields: dict[str, dict[str, str]] = {}
    structures: dict[str, type[ctypes.Structure]] = {}
    for name, body in _STRUCT.findall(text):
        fields[name] = {field: kind for kind, field in _FIELD.findall(body)}
        members = [(field, _ctype(kind, structures)) for field, kind in fields[name].items()]
        structures[name] = type(name, (ctypes.Structure,), {"_fields_": members})
    return Table(fields, structures, tuple(_KERNEL.findall(text)))


def _ctype(kind: str, structures: Mapping[str, type[ctypes.Structure]]) -> Any:
    if kind.endswith("*"):
        return ctypes.c_void_p
    return ctypes.c_ssize_t if kind == "Index" else structures[kind]


def declare(library: ctypes.CDLL, table: Table) -> None:
    """Tells ctypes the arguments of the library's kernels."""
    for name in table.kernels:
        function = getattr(library, f"densekit_{name}")
        function.argtypes = [ctypes.POINTER(table.structures[f"{name}_args"]), ctypes.c_int]
        function.restype = ctypes.c_int


def call(library: Any, name: str, **arguments: Any) -> None:
    """Runs a kernel on torch's number of threads.

    Args:
        library: one that `declare` has seen.
        name: of a kernel in the header.
        arguments: a value for each field of its structure: a tensor for a matrix or a pointer, a named tuple (or a
            dict, whose missing fields are null) for a structure, an integer for an Index, None for null.

    Raises:
        TypeError: an argument that the header does not have, or lacks, or that is not what it declares.
        MemoryError: there was none for the kernel's scratch.
    """
    table = read()
    kind = f"{name}_args"
    if arguments.keys() != table.fields[kind].keys():
        wrong = sorted(arguments.keys() ^ table.fields[kind].keys())
        raise TypeError(f"the {name} kernel's arguments are {', '.join(table.fields[kind])}; differing: {wrong}")
    held: list[Any] = []  # copies, which must live until the kernel returns
    try:
        packed = _encode(table, kind, arguments, held)
    except TypeError as error:
        raise TypeError(f"the {name} kernel: {error}") from error
    if getattr(library, f"densekit_{name}")(packed, torch.get_num_threads()):
        raise MemoryError(f"the {name} kernel found no memory for its scratch")


def _encode(table: Table, kind: str, values: Mapping[str, Any], held: list[Any]) -> ctypes.Structure:
    encoded = {}
    for field, type_ in table.fields[kind].items():
        value = values.get(field)
        if value is None:
            continue  # null
        if type_ == "Index":
            encoded[field] = value
        elif type_ in _MATRICES:
            encoded[field] = table.structures[type_](_address(value, field), _leading_dimension(value, field))
        elif type_ in _VECTORS:
            encoded[field] = _vector(value, field, copies=_VECTORS[type_], held=held)
        elif type_.endswith("*"):
            held.append(value)
            encoded[field] = ctypes.addressof(value)
        else:
            parts = value if isinstance(value, dict) else value._asdict()
            encoded[field] = _encode(table, type_, parts, held)
    return table.structures[kind](**encoded)


def _vector(value: Tensor, field: str, *, copies: bool, held: list[Any]) -> int:
    if not value.is_contiguous():
        if not copies:
            raise TypeError(f"{field} is written, and not contiguous")
        value = value.contiguous()
        held.append(value)
    return _address(value, field)


def _address(value: Tensor, field: str) -> int:
    if value.dtype is not torch.float32 or value.device.type != "cpu":
        raise TypeError(f"{field} is {value.dtype} on {value.device}, not float32 on a CPU")
    return value.data_ptr()


def _leading_dimension(value: Tensor, field: str) -> int:
    """Floats from one row to the next."""
    if value.dim() != 2 or (value.stride(1) != 1 and value.shape[1] > 1):
        raise TypeError(f"{field} is no matrix with the values of a row side by side")
    return value.stride(0)
