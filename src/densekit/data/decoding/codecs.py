"""What `decode` has to know about Pillow: which of its readers are used, and what keeps them from misleading us.

Errors are Pillow's, and of its kinds where something here refuses: EOFError for a file that ends early, SyntaxError for
a damaged or an unknown one, DecompressionBombError for too many pixels. `decode` gives them their codes.
"""

import io
import os
import re
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple, cast

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

Stream = IO[bytes]


class Format(NamedTuple):
    """A format that is read. `without_metadata` is a second attempt: damaged metadata say nothing about the pixels."""

    begins: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    reader: Callable[[Stream], ImageFile.ImageFile]
    without_metadata: Callable[[bytes], ImageFile.ImageFile] | None = None

    def open(self, stream: Stream) -> ImageFile.ImageFile:
        """The image with its header read."""
        stream.seek(0)
        try:
            return self.reader(stream)
        except Exception:
            if self.without_metadata is not None:
                stream.seek(0)
                with suppress(Exception):
                    return self.without_metadata(stream.read())
            raise

    def ends_early(self, stream: Stream) -> bool:
        """Whether the header, which could not be read, goes on behind the end of the file."""
        watched = _Watched(stream)
        with suppress(Exception):
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            if self.reader is WebPImageFile:  # reads all in one go; but the file says how long it is
                return int.from_bytes(stream.read(8)[4:], "little") + 8 > size
            self.reader(cast("Stream", watched))
        return watched.fell_short


class _Watched:
    """A stream that notices when it gives less than it was asked for."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell
        self.fell_short = False

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self.fell_short |= len(content) < size
        return content


def _jpeg_without_metadata(content: bytes) -> ImageFile.ImageFile:
    kept, exif, place = [content[:2]], b"", 2
    while content[place : place + 1] == b"\xff" and content[place + 1] != 0xDA:  # until the first scan
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        segment = content[place : place + 2 + length]
        place += len(segment)
        metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        colour_space = marker in (0xE0, 0xEE) and len(segment) >= 16  # JFIF and Adobe; libjpeg ignores shorter ones
        if colour_space or not metadata:
            kept.append(segment)
        elif segment[4:10] == b"Exif\0\0":
            exif = exif or segment[4:]
    image = JpegImageFile(io.BytesIO(b"".join(kept) + content[place:]))
    if exif:
        image.info["exif"] = exif  # not parsed before somebody asks for the orientation
    return image


class _Png(PngImageFile):
    def load_prepare(self) -> None:
        """Pillow checks every sum but those of the pixels (13.0), which inflate to others where a bit has flipped."""
        assert self.fp is not None
        place = self.fp.tell()
        self.fp.seek(8)
        while len(head := self.fp.read(8)) == 8 and head[4:] != b"IEND":
            length = int.from_bytes(head[:4], "big")
            if head[4:] != b"IDAT":
                self.fp.seek(length + 4, os.SEEK_CUR)
                continue
            sum_of_body, written = zlib.crc32(self.fp.read(length), zlib.crc32(b"IDAT")), self.fp.read(4)
            if len(written) == 4 and sum_of_body != int.from_bytes(written, "big"):
                raise OSError("broken PNG file (bad checksum of pixels)")
        self.fp.seek(place)
        super().load_prepare()

    def load_end(self) -> None:
        """The pixels are there; what is left of the file are metadata."""
        with suppress(Exception):
            super().load_end()


def _png_without_metadata(content: bytes) -> ImageFile.ImageFile:
    kept, place = [content[:8]], 8
    while place < len(content):
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        chunk = content[place : place + 12 + length]
        place += len(chunk)
        whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and whole):  # a capital: no pixels without it
            kept.append(chunk)
    return _Png(io.BytesIO(b"".join(kept)))


class _Tiff(TiffImageFile):
    """Pillow's reader without its interest in metadata, and right about samples in separate planes."""

    def _setup(self) -> None:
        for tag in (TiffImagePlugin.X_RESOLUTION, TiffImagePlugin.Y_RESOLUTION, TiffImagePlugin.RESOLUTION_UNIT):
            if tag in self.tag_v2:
                del self.tag_v2[tag]
        if self.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2 and not _is_compressed(self):
            # Pillow takes 16-bit planes for 8-bit ones (13.0). libtiff does not, and gets whatever is compressed; it
            # looks into the file for how.
            self.tag_v2[TiffImagePlugin.COMPRESSION] = _PACKBITS
        super()._setup()

    def load_prepare(self) -> None:
        """Forgets the directories the EXIF points to: Pillow would read them, and fail where they are damaged."""
        with suppress(Exception):
            self.getexif()  # reads it; what can be read is kept even if this fails
        for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop):
            with suppress(Exception):
                del self.getexif()[tag]
        super().load_prepare()


_PACKBITS, _OLD_JPEG = 32773, 6


def _is_compressed(image: TiffImageFile) -> bool:
    return bool(image.tag_v2.get(TiffImagePlugin.COMPRESSION, 1) != 1)


# The readers by themselves, not Image.open, which swallows their reasons ("cannot identify image file") and tries other
# formats next. AVIF and JPEG 2000 are missing: so they are from some builds of Pillow.
FORMATS = {
    "BMP": Format(re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0", re.DOTALL), (".bmp",), BmpImageFile),
    "GIF": Format(re.compile(rb"GIF8[79]a"), (".gif",), GifImageFile),
    "JPEG": Format(
        re.compile(rb"\xff\xd8\xff"), (".jpg", ".jpeg", ".jpe", ".jfif"), JpegImageFile, _jpeg_without_metadata
    ),
    "PNG": Format(re.compile(rb"\x89PNG\r\n\x1a\n"), (".png", ".apng"), _Png, _png_without_metadata),
    "PPM": Format(re.compile(rb"P[1-6f]\s"), (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), PpmImageFile),
    "TIFF": Format(re.compile(rb"II[*+]\0|MM\0[*+]"), (".tif", ".tiff"), _Tiff),
    "WebP": Format(re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL), (".webp",), WebPImageFile),
}


_SMALL_TILE = 2048 * 2048  # may be larger than a small picture, and than a strict limit on it


def check_layout(image: ImageFile.ImageFile, stream: Stream, max_pixels: int) -> None:
    """Refuses a TIFF whose single tiles are a bomb, or that lacks strips or tiles: Pillow leaves them black."""
    if not isinstance(image, TiffImageFile):
        return
    planes = 1
    if image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2:
        if image.mode in ("LA", "La", "PA", "LAB"):  # libtiff's planes would land in the wrong bands
            raise SyntaxError(f"unknown pixel mode {image.mode} in separate planes")
        planes = len(image.getbands())
    width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    kind, across, down = _tiles(image)
    if kind == "tile" and across * down > _SMALL_TILE:  # libtiff makes room for one; of strips only for what is used
        if across * down > max_pixels:
            raise Image.DecompressionBombError(f"tiles of {across} x {down} pixels")
        if across * down > 2 * width * height:
            raise SyntaxError(f"tiles of {across} x {down} pixels in a picture of {width} x {height}")
    needed = -(-width // across) * -(-height // down) * planes
    if image.tag_v2.get(TiffImagePlugin.COMPRESSION) != _OLD_JPEG:  # that one keeps its data elsewhere
        _check_present(image, kind, needed, stream.seek(0, io.SEEK_END))
    if not _is_compressed(image):
        del image.tile[needed:]  # Pillow would decode a million of them, one over the other


def _tiles(image: TiffImageFile) -> tuple[str, int, int]:
    """What the pixels are stored in, "tile" or "strip", and its width and height."""
    tags = image.tag_v2
    # Where there are both, Pillow takes the strips, libtiff the tiles.
    if TiffImagePlugin.TILEWIDTH in tags and (TiffImagePlugin.STRIPOFFSETS not in tags or _is_compressed(image)):
        kind, across, down = "tile", tags[TiffImagePlugin.TILEWIDTH], tags.get(TiffImagePlugin.TILELENGTH)
    else:
        height = tags[TiffImagePlugin.IMAGELENGTH]
        kind, across, down = "strip", tags[TiffImagePlugin.IMAGEWIDTH], tags.get(TiffImagePlugin.ROWSPERSTRIP, height)
    if not (isinstance(across, int) and isinstance(down, int) and across > 0 and down > 0):
        raise SyntaxError(f"{kind}s of {across} x {down} pixels")
    return kind, across, down


def _check_present(image: TiffImageFile, kind: str, needed: int, size: int) -> None:
    tags = image.tag_v2
    offsets = tags.get(TiffImagePlugin.STRIPOFFSETS) or tags.get(TiffImagePlugin.TILEOFFSETS, ())
    counts = tags.get(TiffImagePlugin.STRIPBYTECOUNTS) or tags.get(TiffImagePlugin.TILEBYTECOUNTS, ())
    if len(offsets) < needed:
        raise EOFError(f"{len(offsets)} of {needed} {kind}s")
    if not _is_compressed(image) or len(counts) != len(offsets):  # known without them, and sometimes wrong
        counts = (1,) * len(offsets)
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True), 1):
        if not 0 < offset <= size - count or (needed > 1 and not count):
            raise EOFError(f"{kind} {number} of {needed} is not in the file")


def raw_mode(image: Image.Image) -> str:
    """How the file stores its samples ("RGB;16B"), which Pillow knows until the pixels are loaded."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    arguments: Any = image.tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


_KEY_SCALES = {"L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}


def fix_colour_key(image: Image.Image, raw_mode: str) -> None:
    """A PNG's transparent colour is written in the file's own range; Pillow compares it with 8-bit pixels as it is."""
    key, scale = image.info.get("transparency"), _KEY_SCALES.get(raw_mode)
    if scale and isinstance(key, int):
        image.info["transparency"] = int(key * scale)
    elif scale and isinstance(key, tuple):
        image.info["transparency"] = tuple(int(value * scale) for value in key)


class _PillowHere(threading.local):
    """The module pattern of a filter of warnings: matches the decoders' modules, in threads that are decoding."""

    decoding = False

    def match(self, module: str) -> bool:
        return self.decoding and module.startswith(("PIL.", "pydicom."))


_HERE = _PillowHere()
_IGNORE_PILLOW = ("ignore", None, Warning, _HERE, 0)


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow's and pydicom's warnings of odd metadata are ignored in this thread; those of anybody else are not.

    warnings.catch_warnings would be wrong: it swaps the list of the whole process, so threads that overlap restore each
    other's. Here each thread adds a filter and takes one away; being equal, it does not matter whose.
    """
    filters = cast("list[object]", warnings.filters)  # no filterwarnings: it would make every module warn anew
    filters.insert(0, _IGNORE_PILLOW)
    _HERE.decoding = True
    try:
        yield
    finally:
        _HERE.decoding = False
        with suppress(ValueError):  # somebody called resetwarnings
            filters.remove(_IGNORE_PILLOW)


class _PixelLimit:
    """Pillow's own limit on pixels, one number for the process: off while any thread decodes under a higher one.

    With both limits at their defaults that is never, and the number is not touched.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: int | None = None

    @contextmanager
    def lifted_for(self, max_pixels: int) -> Iterator[None]:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and max_pixels <= 2 * limit:  # it only warns up to twice the limit
            yield
            return
        with self._lock:
            if not self._users or Image.MAX_IMAGE_PIXELS is not None:
                self._limit = Image.MAX_IMAGE_PIXELS
            self._users += 1
            Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and Image.MAX_IMAGE_PIXELS is None:  # else its owner has set it meanwhile
                    Image.MAX_IMAGE_PIXELS = self._limit


PIXEL_LIMIT = _PixelLimit()
