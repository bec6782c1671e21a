"""DICOM: the first frame as a viewer shows it, by pydicom, which is an extra.

Stored values go through the file's rescaling (or lookup table), then through its window (or table, or the window that
was asked for); without one, the lowest value of the image is black and the highest white. MONOCHROME1 is inverted, and
padding is black. An enhanced file has rescaling and window in its functional groups. An empty element is an absent one.
"""

import re
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densekit.data.decoding.window import to_8_bits, windowed
from densekit.errors import BadImage

BEGINS = re.compile(rb".{128}DICM", re.DOTALL)
SUFFIXES = (".dcm", ".dicom")

_LACKS = re.compile(r"missing dependencies|does not support")

Window = tuple[float, float]
_Values = NDArray[Any]


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
        padding = self._padding(stored)
        shares = self._shares(self._rescaled(stored), padding, window)
        if kind == "MONOCHROME1":
            shares = 1 - shares
        shares[padding] = 0
        return Image.fromarray(to_8_bits(shares)), notices

    def _group(self, name: str) -> Any:
        """A functional group of the first frame, or one of all frames (PS3.3, C.7.6.16); without, the whole header."""
        for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            found = self._header.get(groups)
            if found and found[0].get(name):
                return found[0].get(name)[0]
        return self._header

    def _padding(self, stored: _Values) -> NDArray[np.bool_]:
        """Where there is no image (PS3.3, C.7.5.1.1.2)."""
        value = _first(self._header.get("PixelPaddingValue"))
        if value is None:
            return np.zeros(stored.shape, dtype=bool)
        other = _first(self._header.get("PixelPaddingRangeLimit"))
        low, high = sorted((value, value if other is None else other))
        return (stored >= low) & (stored <= high)

    def _rescaled(self, stored: _Values) -> _Values:
        if entry := _table(self._header, "ModalityLUTSequence"):
            return self._looked_up(stored, entry)
        group = self._group("PixelValueTransformationSequence")
        slope, intercept = (_first(group.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
        if slope is None and intercept is None:
            return stored
        return stored.astype(np.float64) * (1.0 if slope is None else slope) + (intercept or 0.0)

    def _shares(self, values: _Values, padding: NDArray[np.bool_], window: Window | None) -> NDArray[np.float64]:
        group = self._group("FrameVOILUTSequence")
        centre, width = (_first(group.get(name)) for name in ("WindowCenter", "WindowWidth"))
        if not np.isfinite([values.min(), values.max(), centre or 0, width or 0]).all():
            raise BadImage(
                "unsupported_values",
                f"{self._name} is DICOM with values or a window that are not finite; correct its rescaling and window",
            )
        if window is not None:
            return windowed(values, *window)
        if entry := _table(group, "VOILUTSequence"):
            return np.clip(self._looked_up(values, entry) / (2 ** int(entry.LUTDescriptor[2]) - 1), 0, 1)
        if centre is not None and width is not None and width > 0:
            return windowed(values, centre, width, str(group.get("VOILUTFunction", None) or "LINEAR"))
        seen = values if padding.all() else values[~padding]
        low, high = float(seen.min()), float(seen.max())
        return windowed(values, (low + high) / 2, (high - low) or np.inf)

    def _looked_up(self, values: _Values, entry: Any) -> _Values:
        """By the file's table (PS3.3, C.11.1.1 and C.11.2.1.1). pydicom's wrap the places of an 8-bit table at 256."""
        header = self._header
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
        looked_up: _Values = np.atleast_1d(table)[places]
        return looked_up


def _table(dataset: Any, name: str) -> Any:
    """The first lookup table of a sequence, if it has one."""
    entries = dataset.get(name)
    has_one = entries and entries[0].get("LUTDescriptor") and entries[0].get("LUTData") is not None
    return entries[0] if has_one else None


def _first(value: Any) -> float | None:
    """Of a number, or of several views' numbers."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0])
