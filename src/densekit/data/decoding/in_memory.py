"""Images in memory, in any of the usual forms -> encoded bytes, or a Pillow image of the same pixels."""

import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from densekit.errors import BadImage, InvalidInput

if TYPE_CHECKING:
    import torch  # not needed, and not imported, to decode

Source = bytes | str | os.PathLike[str]
ImageSource: TypeAlias = (
    "Source | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray[Any, np.dtype[Any]] | torch.Tensor"
)
_CHANNELS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGBA"}
_ACCEPTED = (
    "a path, encoded bytes, a binary file object, a PIL image, a NumPy array (H, W) or (H, W, C), "
    "or a torch tensor (C, H, W)"
)


def content_of(source: ImageSource) -> Source | Image.Image:
    """Bytes and paths as they are; file objects read to bytes; arrays and tensors as Pillow images.

    Raises:
        BadImage: an array whose dtype or shape does not say what its pixels are, or a file object that cannot be read.
        InvalidInput: anything else than an image.
    """
    if isinstance(source, bytes | str | os.PathLike | Image.Image):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if isinstance(source, np.ndarray):
        return _image_of(source, "array")
    if _is_tensor(source):
        return _image_of(_channels_last(source), "tensor")
    if hasattr(source, "read"):
        return _read(source)
    raise InvalidInput(f"no image can be read from {_described(source)}; give {_ACCEPTED}")


def check_several(sources: object) -> None:
    """Raises InvalidInput where one image was given in place of several, or nothing that can be iterated."""
    single = isinstance(sources, str | bytes | bytearray | memoryview | os.PathLike | Image.Image)
    single = single or hasattr(sources, "read")
    if isinstance(sources, np.ndarray) or _is_tensor(sources):
        single = sources.ndim < 4  # type: ignore[attr-defined]  # both have it
    if single:
        raise InvalidInput(f"{_described(sources)} is one image, not several; call predict, or put it into a list")
    if not hasattr(sources, "__iter__"):
        raise InvalidInput(f"{_described(sources)} holds no images; give a list, each of them {_ACCEPTED}")


def _is_tensor(source: object) -> bool:
    """Whether it is a torch tensor; torch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _described(source: object) -> str:
    return f"the path {source!r}" if isinstance(source, str) else f"a {type(source).__name__}"


def _read(file: Any) -> bytes:
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)  # one that was just written to stands at its end
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise BadImage("unreadable", f"the file object cannot be read ({error}); open it again") from error
    if not isinstance(content, bytes):
        raise InvalidInput(f"read() of the file object gave {_described(content)}, not bytes; open it with mode 'rb'")
    return content


def _channels_last(tensor: Any) -> Any:
    """(C, H, W) or (H, W) -> the same tensor as (H, W, C) or (H, W)."""
    shape = tuple(tensor.shape)
    if len(shape) == 3:
        if shape[0] not in _CHANNELS:
            hint = "; of a tensor (H, W, C) give x.permute(2, 0, 1)" if shape[2] in _CHANNELS else ""
            raise _bad_shape(f"the tensor has shape {shape}, not (C, H, W) with C of 1 to 4{hint}")
        tensor = tensor.permute(1, 2, 0)
    # By name first: NumPy has no bfloat16, and float16 would be refused as something else.
    _check_dtype(str(tensor.dtype).removeprefix("torch."), "tensor")
    return tensor.detach().cpu().numpy()


def _image_of(array: Any, kind: str) -> Image.Image:
    """(H, W) or (H, W, C) of 8-bit values, or (H, W) of 16-bit ones -> L, LA, RGB, RGBA or I;16."""
    pixels = np.asarray(array)
    _check_dtype(pixels.dtype.name, kind)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    shape = pixels.shape
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and shape[2] not in _CHANNELS):
        hint = ""
        if pixels.ndim == 4:
            hint = "; give the images of a batch one by one, as predict_each does"
        elif pixels.ndim == 3 and shape[0] in _CHANNELS:
            hint = "; of an array (C, H, W) give np.moveaxis(x, 0, -1)"
        raise _bad_shape(f"the {kind} has shape {shape}, not (H, W) or (H, W, C) with C of 1 to 4{hint}")
    if 0 in shape:
        raise _bad_shape(f"the {kind} has shape {shape}, that is no pixel")
    if pixels.dtype != np.uint8 and pixels.ndim == 3:
        raise _bad_shape(
            f"the {kind} has {_CHANNELS[shape[2]]} pixels of 16 bits, which only grey ones may have; "
            "give (x >> 8).astype('uint8')"
        )
    return Image.fromarray(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")))


def _check_dtype(dtype: str, kind: str) -> None:
    if dtype not in ("uint8", "uint16"):
        raise BadImage(
            "unsupported_values",
            f"the {kind} holds {dtype}, which does not say what is black and white; give uint8 (0 to 255), or uint16 "
            "(0 to 65535) for grey: floats from 0 to 1 as (255 * x).round() of that type, before any normalisation",
        )


def _bad_shape(message: str) -> BadImage:
    return BadImage("unsupported_mode", message)
