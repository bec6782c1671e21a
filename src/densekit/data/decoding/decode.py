"""Bytes or a file -> an upright 8-bit image. The only decoder: what training saw is what prediction and serving see.

The content decides the format, never the suffix, and only the formats of the table below are opened: Pillow's other
readers are for the curious, and one of them starts Ghostscript. Embedded colour profiles are not applied. DICOM is
pydicom's.

Anything wrong with an image is a `BadImage` with a code of `ERROR_CODES`; whatever the bytes, nothing else escapes.
"""

import errno
import functools
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from densekit.data.decoding import codecs, dicom
from densekit.data.decoding.dicom import Dicom, Window
from densekit.data.decoding.in_memory import ImageSource, content_of
from densekit.data.decoding.in_memory import Source as Source
from densekit.data.decoding.window import to_8_bits, windowed
from densekit.errors import BadImage, InvalidInput
from densekit.formatting import printable

Part = Callable[[int, int], tuple[int, int, int, int]]
"""(width, height) of an upright image -> (left, top, right, bottom) of a part of it."""

MAX_PIXELS = 100_000_000  # 400 MB as RGBA: the largest cameras pass, a decompression bomb does not

ERROR_CODES = {
    "missing": "there is no such file",
    "unreadable": "a folder or a device, a file without permission, or a failing disk",
    "empty_file": "no bytes at all",
    "not_an_image": "does not begin like any format that is read, or has no picture",
    "no_reader": "of a format whose reader, an extra, is not installed",
    "truncated": "ends before its last pixel",
    "corrupt": "begins like an image, but is damaged",
    "too_many_pixels": "its header claims more pixels than the limit; they were not decoded",
    "out_of_memory": "its pixels do not fit into memory",
    "unsupported_mode": "an image, but of a variant of its format that is not read",
    "unsupported_values": "numbers without a known white: integers past 16 bits, or floats outside 0 to 1",
}


@dataclass(frozen=True)
class Decoded:
    """An image, detached from its file: mode L (1 channel), RGB (3) or RGBA (4), 8 bits a channel, upright.

    `notices` are what a person should know about it, each a few words; usually none.
    """

    image: Image.Image
    notices: tuple[str, ...] = ()
    format: str = ""
    """What the file was, by its content: JPEG, PNG, ..."""
    mode: str = ""
    """How it kept its pixels, by Pillow's name: L, RGB, P, CMYK, I;16, ..."""


def decode(
    source: ImageSource,
    *,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    window: Window | None = None,
    part: Part | None = None,
    name: str | None = None,
) -> Decoded:
    """An image, encoded or in memory, -> one with 1, 3 or 4 channels.

    `source` is a path, bytes, a binary file object, a PIL image, a NumPy array (H, W) or (H, W, C) or a torch tensor
    (C, H, W); the last two hold uint8 in the order RGB, or uint16 if grey. In memory or in a file, the same pixels
    give the same image; of a PIL image with several frames the current one is taken.

    Transparency is laid over white, as on a page, unless 4 channels are asked for: dropping the alpha channel would
    show whatever colour the editor left under transparent pixels. Values past 8 bits are scaled, never clipped: white
    is 65535 for 16-bit integers, and for 32-bit ones that fit into 16; it is 1.0 for floats. Grey is Rec. 601 luma.
    With a `window`, (centre, width), black is centre - width / 2 and white centre + width / 2 instead, and what lies
    beyond is clipped: in grey images of more than 8 bits, and in DICOM, which otherwise has its own. Of an animation or
    a document the first picture is taken, with a notice. With `part` only that is given; to cut it out afterwards would
    come to the same, but copies all of the image first. Messages call the image `name`; none: its path.

    Raises:
        BadImage: an image that cannot be read.
        InvalidInput: other channels, or a `source` that is no image.
    """
    if channels not in _MODES:
        raise InvalidInput(f"channels={channels} is not possible: 1 is grey, 3 is RGB, 4 is RGB with alpha")
    with _opened(content_of(source), max_pixels, name) as (image, name):
        if isinstance(image, Dicom):
            shown, said = image.pixels(window)
            return Decoded(_with_channels(_cut(shown, part), channels), tuple(said), "DICOM", shown.mode)
        raw_mode, stored = codecs.raw_mode(image), image.mode
        image.load()
        notices: list[str] = []
        pixels: Image.Image
        if image.mode in _DEEP_MODES:
            pixels = _scaled(image, raw_mode, name, notices, window)
        else:
            codecs.fix_colour_key(image, raw_mode)
            pixels = _shallow(image)
        if pixels.mode == "RGBA" and pixels.getbbox() is None:  # the box around what is not transparent
            notices.append("every pixel is fully transparent")
        pixels = _with_channels(_cut(_upright(pixels, image), part), channels)
        if pixels is image:
            pixels = image.copy()
        pixels.info = {}  # a stale colour key or megabytes of EXIF must not travel with every sample
        frames = () if isinstance(source, Image.Image) else _frames_notice(image)
        return Decoded(pixels, (*frames, *notices), image.format or "", stored)


def check_header(source: Source, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raises the BadImage that `decode` would raise before it comes to the pixels. Cheap: for scanning a folder."""
    with _opened(source, max_pixels):
        pass


def header_of(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int, bool]:
    """Width and height as stored, in pixels, and whether it has colours; by the header alone. Raises BadImage."""
    with _opened(source, max_pixels) as (image, _):
        grey = isinstance(image, Dicom) or image.mode in _GREY_MODES
        return (*image.size, not grey)


def check_there(source: Source, *, name: str | None = None) -> None:
    """Raises the BadImage of a file that is missing. One look at it, as there may be millions; none of bytes."""
    if not isinstance(source, bytes) and not os.path.isfile(source):
        with _stream(source, _name(source) if name is None else printable(name)):  # which says what is wrong
            pass


def format_of_suffix(path: str | os.PathLike[str]) -> str | None:
    """The format that a file's name promises, as `Decoded.format` has it; none for a suffix that is not read."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in dicom.SUFFIXES:
        return "DICOM"
    return next((name.upper() for name, known in codecs.FORMATS.items() if suffix in known.suffixes), None)


def begins_like_an_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file of any name holds, by its first bytes, a format that is read."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return bool(dicom.BEGINS.match(head)) or any(known.begins.match(head) for known in codecs.FORMATS.values())


def suffix_of(content: bytes, name: str) -> str:
    """The usual suffix of the format that these bytes begin like. Raises BadImage where it is none that is read."""
    if dicom.BEGINS.match(content[:_HEAD]):
        return dicom.SUFFIXES[0]
    for known in codecs.FORMATS.values():
        if known.begins.match(content[:_HEAD]):
            return known.suffixes[0]
    raise _no_image(name)


IMAGE_SUFFIXES = frozenset(suffix for known in codecs.FORMATS.values() for suffix in known.suffixes) | {*dicom.SUFFIXES}
"""Lower-case suffixes of the files that a scan of a folder takes for images."""

_HEAD = 132  # bytes by which a format is known; DICOM's mark are the last four
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP_MODES = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
_GREY_MODES = {"1", "L", "LA", "La"} | _DEEP_MODES
_WHITE = {"I;12": 4095}  # else 65535
_DARK = 4096  # of which 8 bits keep 16 greys; cameras and detectors of 12 bits write no higher value

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def _opened(
    source: Source | Image.Image, max_pixels: int, given: str | None = None
) -> Iterator[tuple[Image.Image | Dicom, str]]:
    """The image, its header read and its size allowed, and its name for people. Whatever fails inside is a BadImage."""
    name = _name(source) if given is None else printable(given)
    with codecs.quiet(), codecs.PIXEL_LIMIT.lifted_for(max_pixels):
        if isinstance(source, Image.Image):
            with _failures_explained(name, max_pixels, lambda: False):
                _check_size(source, name, max_pixels)
                yield source, name
            return
        with _stream(source, name) as stream:
            known: codecs.Format | None = None
            image: ImageFile.ImageFile | Dicom | None = None
            with _failures_explained(
                name, max_pixels, lambda: known is not None and image is None and known.ends_early(stream)
            ):
                head = stream.read(_HEAD)
                if not head:
                    raise BadImage("empty_file", f"{name} is empty; get it again, or remove it")
                is_dicom = dicom.BEGINS.match(head)  # whatever the 128 bytes before are: some are a TIFF's
                if not is_dicom:
                    known = next((known for known in codecs.FORMATS.values() if known.begins.match(head)), None)
                if known is None and not is_dicom:
                    raise _no_image(name)
                image = Dicom(stream, name) if known is None else known.open(stream)
                _check_size(image, name, max_pixels)
                if not isinstance(image, Dicom):
                    codecs.check_layout(image, stream, max_pixels)
                yield image, name


@contextmanager
def _failures_explained(name: str, max_pixels: int, ended: Callable[[], bool]) -> Iterator[None]:
    try:
        yield
    except BadImage:
        raise
    except Exception as error:  # hostile bytes make Pillow raise nearly anything
        raise _explained(error, name, max_pixels, ended()) from error


def _check_size(image: Image.Image | Dicom, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(
            "too_many_pixels",
            f"{name} has {width * height:,} pixels ({width} wide, {height} high), the limit is {max_pixels:,}; "
            "make it smaller, or raise max_pixels",
        )


@contextmanager
def _stream(source: Source, name: str) -> Iterator[codecs.Stream]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        # Asked before it is opened: opening a named pipe waits for a writer, perhaps forever.
        if not stat.S_ISREG(os.stat(source).st_mode):
            kind = "a folder" if os.path.isdir(source) else "not an ordinary file"
            raise BadImage("unreadable", f"{name} is {kind}; give the path of one image file")
        # Opened here and not by Pillow: given a path it maps the file, and a file cut meanwhile kills the process.
        file = open(source, "rb")  # noqa: SIM115 - closed below; only its opening belongs to this try
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage("missing", f"{name} does not exist; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a path no file system can hold
        raise BadImage("unreadable", f"{name} cannot be opened ({_reason(error)}); check its permissions") from error
    with file:
        yield file


def _no_image(name: str) -> BadImage:
    formats = ", ".join((*codecs.FORMATS, "DICOM"))
    return BadImage("not_an_image", f"{name} does not begin like {formats}; convert it to PNG or JPEG, or remove it")


def _explained(error: Exception, name: str, max_pixels: int, ended: bool) -> BadImage:
    reason = _reason(error)
    if isinstance(error, MemoryError):
        return BadImage("out_of_memory", f"{name} does not fit into memory; make it smaller")
    if isinstance(error, Image.DecompressionBombError):
        fix = "make it smaller, or raise max_pixels"
        return BadImage("too_many_pixels", f"{name} needs more pixels than the limit, {max_pixels:,} ({reason}); {fix}")
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek to a hostile offset
        return BadImage("unreadable", f"{name} cannot be read ({reason}); check the disk or the network")
    if ended or isinstance(error, EOFError) or _TRUNCATED.search(reason):
        return BadImage("truncated", f"{name} ends too early ({reason}); get it again, or remove it")
    if _UNSUPPORTED.search(reason):
        fix = "save it as 8-bit PNG or JPEG"
        return BadImage("unsupported_mode", f"{name} is a variant of its format that is not read ({reason}); {fix}")
    return BadImage("corrupt", f"{name} is damaged ({reason}); get it again, or remove it")


# Pillow has no types for these, only words.
_UNSUPPORTED = re.compile(
    r"unsupported bmp|cannot handle|unknown pixel mode|not yet supported|decoder \S+ not available", re.I
)
_TRUNCATED = re.compile(
    r"truncated|incomplete|not enough|less than expected|cannot reshape|reached eof|cannot load", re.I
)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, KeyError) or (isinstance(error.__cause__, KeyError) and text == str(error.__cause__)):
        text = f"no entry {text}"
    return printable(" ".join(text.split()))[:120] or type(error).__name__


def _name(source: Source | Image.Image) -> str:
    return "the image" if isinstance(source, bytes | Image.Image) else printable(os.fsdecode(source))


def _shallow(image: Image.Image) -> Image.Image:
    """Any 8-bit (or 1-bit) mode -> L, RGB, or RGBA if anything could be transparent; the image itself if it is so."""
    if image.mode == "La":  # premultiplied; Pillow has no direct way to RGBA
        image = image.convert("LA")
    if image.has_transparency_data:
        return image.convert("RGBA")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _scaled(image: Image.Image, raw_mode: str, name: str, notices: list[str], window: Window | None) -> Image.Image:
    """Values of more than 8 bits -> L, or RGBA if one value is transparent."""
    values = np.asarray(image)
    if window is not None:
        if np.isnan(values).any():
            raise BadImage("unsupported_values", f"{name} holds values that are no numbers; save it anew, or remove it")
        grey = to_8_bits(windowed(values, *window))
    elif image.mode == "F":
        notices.append("floating point: 0 is black, 1 is white")
        _check_range(values, 1, "floats", name)
        grey = (values * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    else:
        if image.mode == "I":
            if image.format == "TIFF":  # PNG and PPM come here with 16 bits
                notices.append("signed or 32-bit integers: 0 is black, 65535 is white")
            _check_range(values, 65535, "integers", name)
        if 0 < values.max() < _DARK and raw_mode not in _WHITE:
            notices.append(f"16 bits, but no value above {values.max()}: nearly black without a data.window")
        grey = _to_8_bits(_WHITE.get(raw_mode, 65535))[values]
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
        grey = 255 - grey  # 0 is white, which Pillow sees to only up to 8 bits
    picture = Image.fromarray(grey)
    if "transparency" in image.info:
        alpha = Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
        return Image.merge("LA", (picture, alpha)).convert("RGBA")
    return picture


@functools.cache
def _to_8_bits(white: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(white + 1,) table from a value to the nearest of 0..255."""
    return ((np.arange(white + 1) * 255 + white // 2) // white).astype(np.uint8)


def _check_range(values: np.ndarray[Any, Any], white: int, kind: str, name: str) -> None:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # also false for not-a-number
        raise BadImage(
            "unsupported_values",
            f"{name} holds {kind} from {low:g} to {high:g}, only 0 to {white} has a known black and white; "
            "scale it and save it as 8 or 16-bit PNG",
        )


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Pixels as the photographer saw them. (A TIFF has been turned while loading, and no longer says so.)"""
    turn = None
    with suppress(Exception):  # damaged EXIF, and an orientation of any type whatever
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return pixels if turn is None else pixels.transpose(turn)


def _cut(pixels: Image.Image, part: Part | None) -> Image.Image:
    return pixels if part is None else pixels.crop(part(*pixels.size))


def _with_channels(pixels: Image.Image, channels: int) -> Image.Image:
    if pixels.mode == "RGBA" and channels != 4:
        pixels = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)
    return pixels if pixels.mode == _MODES[channels] else pixels.convert(_MODES[channels])


def _frames_notice(image: Image.Image) -> tuple[str, ...]:
    """Asked last: counting the frames of a GIF moves through its file."""
    if isinstance(image, TiffImageFile):  # counting would read the header of every page
        return ("several pages: the first is used",) if image.is_animated else ()
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # the first frame was good, a later one is not
        return ("animated: the first frame is used",)
    return (f"animated, {frames} frames: the first is used",) if frames > 1 else ()
