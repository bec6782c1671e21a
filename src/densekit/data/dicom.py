"""DICOM: the first frame as a viewer shows it, by pydicom, which is an extra.

Stored values go through the file's rescaling (or lookup table), then through its window (or table, or the window that
was asked for); without one, the lowest value of the image is black and the highest white. MONOCHROME1 is inverted.
"""

import re
from typing import IO, Any, BinaryIO, cast

import numpy as np
from PIL import Image

from densekit.data.window import to_8_bits, windowed
from densekit.errors import BadImage

BEGINS = re.compile(rb".{128}DICM", re.DOTALL)
SUFFIXES = (".dcm", ".dicom")

_LACKS = re.compile(r"missing dependencies|does not support")

Window = tuple[float, float]


class Dicom:
    """A file with its header read."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        try:
            from pydicom import dcmread
        except ImportError:
            raise BadImage(
                "no_reader", f"{name} is DICOM, which needs pydicom, an extra: pip install 'densekit[dicom]'"
            ) from None
        stream.seek(0)
        self._stream, self._name = cast(BinaryIO, stream), name
        self._header: Any = dcmread(stream, stop_before_pixels=True)
        if "Rows" not in self._header or "Columns" not in self._header:
            kind = self._header.get("Modality", "unknown")
            raise BadImage("not_an_image", f"{name} is DICOM without a picture (modality {kind}); remove it")
        self.size = int(self._header.Columns), int(self._header.Rows)

    def pixels(self, window: Window | None) -> tuple[Image.Image, list[str]]:
        """L or RGB, and what a person should know."""
        from pydicom.pixels.processing import apply_modality_lut
        from pydicom.pixels.utils import pixel_array

        header, kind = self._header, str(self._header.PhotometricInterpretation)
        self._stream.seek(0)
        try:
            stored = pixel_array(self._stream, index=0)
        except (NotImplementedError, RuntimeError) as error:
            # RuntimeError is also what damaged pixels are; pydicom has only words for what it lacks.
            if not isinstance(error, NotImplementedError) and not _LACKS.search(str(error)):
                raise
            syntax = header.file_meta.TransferSyntaxUID.name
            raise BadImage(
                "unsupported_mode",
                f"{self._name} is DICOM compressed as {syntax}, for which pydicom finds no decoder; "
                "install one, such as pip install 'pylibjpeg[all]', or save it uncompressed",
            ) from error
        notices = []
        if (frames := int(header.get("NumberOfFrames", None) or 1)) > 1:
            notices.append(f"{frames} frames: the first is used")
        if stored.ndim == 3 and stored.dtype == np.uint8 and kind != "PALETTE COLOR":
            return Image.fromarray(stored), notices
        if not kind.startswith("MONOCHROME"):
            raise BadImage("unsupported_mode", f"{self._name} is DICOM of {kind}, which is not read; save it as PNG")
        shares = self._shares(apply_modality_lut(stored, header), window)
        if kind == "MONOCHROME1":
            shares = 1 - shares
        return Image.fromarray(to_8_bits(shares)), notices

    def _shares(self, values: np.ndarray[Any, Any], window: Window | None) -> np.ndarray[Any, np.dtype[np.float64]]:
        header = self._header
        centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
        if not np.isfinite([values.min(), values.max(), centre or 0, width or 0]).all():
            raise BadImage(
                "unsupported_values",
                f"{self._name} is DICOM with values or a window that are not finite; correct its rescaling and window",
            )
        if window is not None:
            return windowed(values, *window)
        if header.get("VOILUTSequence"):
            return self._looked_up(values)
        if centre is not None and width:
            return windowed(values, centre, width, str(header.get("VOILUTFunction", None) or "LINEAR"))
        low, high = float(values.min()), float(values.max())
        return windowed(values, (low + high) / 2, (high - low) or np.inf)

    def _looked_up(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """By the file's table (PS3.3, C.11.2.1.1). pydicom's own wraps the places of an 8-bit table at 256."""
        header, entry = self._header, self._header.VOILUTSequence[0]
        count, first, bits = (int(number) for number in entry.LUTDescriptor)
        if not 8 <= bits <= 16:
            raise BadImage(
                "unsupported_mode", f"{self._name} is DICOM with a table of {bits} bits, not 8 to 16; save it as PNG"
            )
        count = count % 2**16 or 2**16  # 16 bits hold no 65536, and signed ones nothing past 32767
        if header.get("PixelRepresentation") and first >= 2**15:
            first -= 2**16  # written as unsigned, though the values are signed
        table = entry.LUTData
        if isinstance(table, bytes):
            kind = np.dtype(np.uint16 if len(table) >= 2 * count else np.uint8)  # 8 bits may be packed
            table = np.frombuffer(table, kind.newbyteorder("<" if header.original_encoding[1] else ">"), count)
        places = np.clip(values.astype(np.float64) - first, 0, count - 1).astype(np.int64)
        return np.clip(np.atleast_1d(table)[places] / (2**bits - 1), 0, 1)


def _first(value: Any) -> float | None:
    """Of a number, or of several views' numbers."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0])
