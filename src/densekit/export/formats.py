"""--format: names, the file of each, and what has to be installed for it."""

from dataclasses import dataclass

from densekit.errors import InvalidInput, UnknownName
from densekit.optional_packages import require_package


@dataclass(frozen=True)
class Format:
    """One row."""

    file: str
    """Below --out; of Triton its repository."""
    packages: tuple[str, ...]
    int8: bool = True


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "onnx": Format("model.onnx", _ONNX),
    "openvino": Format("model.xml", (*_ONNX, "openvino")),
    "torch": Format("model.pt2", (), int8=False),
    "triton": Format("triton", _ONNX),
}


def chosen(names: tuple[str, ...], *, int8: bool) -> tuple[str, ...]:
    """The formats, each once, in the table's order. Raises UnknownName, or InvalidInput for what cannot be made."""
    for name in names:
        if name not in FORMATS:
            raise UnknownName("format", name, FORMATS)
        if int8 and not FORMATS[name].int8:
            raise InvalidInput(f"--int8 with --format {name} is not possible; take onnx, openvino or triton")
        require_package(f"--format {name}", *FORMATS[name].packages)
    if not names:
        raise InvalidInput(f"--format names nothing; take one or more of {','.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in names)
