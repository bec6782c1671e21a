"""Calls the compiled kernels with the structures that kernels.h declares: the header is read, not repeated.

Every call is checked against the header's fields: their names, and each tensor's type, device and strides. A pointer
where a size is expected, or a strided vector, would not be noticed before it crashed or gave wrong numbers.
"""

import ctypes
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

HEADER = Path(__file__).parent / "kernels.h"
_STRUCT = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ +(.+?) ?(\w+);$", re.MULTILINE)
_KERNEL = re.compile(r"^KERNEL\((\w+)\)$", re.MULTILINE)

Words = list[int]
Encode = Callable[[str, Any, Words, list[Any]], None]
"""Appends the machine words of a field's value, and keeps alive in the last argument what must outlive the call."""


class Field(NamedTuple):
    """One of a structure."""

    name: str
    kind: str
    """Its C type."""
    width: int
    """In machine words: pointers and sizes are one each, and there is nothing else, so nothing is padded."""
    encode: Encode | None
    """None: the value is the word."""


class Kernel(NamedTuple):
    """One function of the library."""

    arguments: tuple[str, ...]
    """Names, in order."""
    fields: tuple[Field, ...]
    packed: Any
    """The ctypes array type of its arguments' words."""


class Table(NamedTuple):
    """What a header declares."""

    structures: dict[str, tuple[Field, ...]]
    kernels: dict[str, Kernel]


@functools.cache
def read(header: Path = HEADER) -> Table:
    """The structures and kernels of a header in the form that kernels.h describes."""
    text = header.read_text()
    structures: dict[str, tuple[Field, ...]] = {}
    for name, body in _STRUCT.findall(text):
        structures[name] = tuple(_field(structures, field, kind) for kind, field in _FIELD.findall(body))
    return Table(structures, {name: _kernel(structures[f"{name}_args"]) for name in _KERNEL.findall(text)})


def _kernel(fields: tuple[Field, ...]) -> Kernel:
    return Kernel(_names(fields), fields, ctypes.c_ssize_t * sum(field.width for field in fields))


def _field(structures: dict[str, tuple[Field, ...]], name: str, kind: str) -> Field:
    if kind in _ENCODERS:
        return Field(name, kind, *_ENCODERS[kind])
    if kind.endswith("*"):
        return Field(name, kind, 1, _pointer)
    parts = structures[kind]
    return Field(name, kind, sum(part.width for part in parts), functools.partial(_structure, parts, _names(parts)))


def _names(fields: Sequence[Field]) -> tuple[str, ...]:
    return tuple(field.name for field in fields)


def declare(library: ctypes.CDLL, table: Table) -> None:
    """Tells ctypes the arguments of the library's kernels."""
    for name in table.kernels:
        function = getattr(library, f"densekit_{name}")
        function.argtypes = [ctypes.POINTER(ctypes.c_ssize_t), ctypes.c_int]
        function.restype = ctypes.c_int


def call(library: Any, name: str, **arguments: Any) -> None:
    """Runs a kernel on torch's number of threads.

    Args:
        library: one that `declare` has seen.
        name: of a kernel in the header.
        arguments: a value for each field of its structure, in order: a tensor for a matrix or a pointer, a named tuple
            for a structure (or a dict, whose missing fields are null), an integer for an Index, None for null.

    Raises:
        TypeError: an argument that the header does not have, or lacks, or that is not what it declares.
        MemoryError: there was none for the kernel's scratch.
    """
    kernel = read().kernels[name]
    if tuple(arguments) != kernel.arguments:
        raise TypeError(f"the {name} kernel takes {', '.join(kernel.arguments)}, not {', '.join(arguments)}")
    words: Words = []
    held: list[Any] = []
    try:
        _encode(kernel.fields, arguments.values(), words, held)
    except TypeError as error:
        raise TypeError(f"the {name} kernel: {error}") from error
    if getattr(library, f"densekit_{name}")(kernel.packed(*words), torch.get_num_threads()):
        raise MemoryError(f"the {name} kernel found no memory for its scratch")


def _encode(fields: Sequence[Field], values: Iterable[Any], words: Words, held: list[Any]) -> None:
    """Runs some hundred times a training step, so it calls little; so do the functions below."""
    for (name, _, width, encode), value in zip(fields, values, strict=True):
        if encode is None:
            words.append(value)
        elif value is None:
            words += (0,) * width
        else:
            encode(name, value, words, held)


def _structure(
    fields: Sequence[Field], names: tuple[str, ...], name: str, value: Any, words: Words, held: list[Any]
) -> None:
    if isinstance(value, dict):
        value = [value.get(each) for each in names]
    elif value._fields != names:
        raise TypeError(f"{name} is ({', '.join(value._fields)}), not ({', '.join(names)})")
    _encode(fields, value, words, held)


def _matrix(name: str, value: Tensor, words: Words, held: list[Any]) -> None:
    strides = value.stride()
    if len(strides) != 2 or (strides[1] != 1 and value.shape[1] > 1):
        raise TypeError(f"{name} is no matrix with the values of a row side by side")
    if value.dtype is not torch.float32 or not value.is_cpu:
        raise _wrong_type(name, value)
    words += (value.data_ptr(), strides[0])


def _input(name: str, value: Tensor, words: Words, held: list[Any]) -> None:
    if not value.is_contiguous():
        value = value.contiguous()
        held.append(value)
    if value.dtype is not torch.float32 or not value.is_cpu:
        raise _wrong_type(name, value)
    words.append(value.data_ptr())


def _output(name: str, value: Tensor, words: Words, held: list[Any]) -> None:
    if not value.is_contiguous():
        raise TypeError(f"{name} is written, and not contiguous")
    _input(name, value, words, held)


def _pointer(name: str, value: Any, words: Words, held: list[Any]) -> None:
    """An array or a variable of ctypes."""
    words.append(ctypes.addressof(value))


def _wrong_type(name: str, value: Tensor) -> TypeError:
    return TypeError(f"{name} is {value.dtype} on {value.device}, not float32 on a CPU")


_ENCODERS: dict[str, tuple[int, Encode | None]] = {
    "Index": (1, None),
    "Matrix": (2, _matrix),
    "ConstMatrix": (2, _matrix),
    "float*": (1, _output),
    "const float*": (1, _input),
}
