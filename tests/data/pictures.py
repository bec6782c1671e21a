"""Pictures to decode, also of kinds that Pillow would not write."""

import io
import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import pytest
from PIL import Image
from PIL import __version__ as pillow_version

from densekit.config import Preprocessing
from densekit.data.decoding.decode import ERROR_CODES, decode
from densekit.data.decoding.in_memory import ImageSource
from densekit.errors import BadImage

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

NEEDS_PILLOW_13 = pytest.mark.skipif(int(pillow_version.split(".")[0]) < 13, reason="older Pillow refuses such a TIFF")


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def scene(width: int = 24, height: int = 16) -> Image.Image:
    """No symmetry: a red corner, a blue edge, a grey slope."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(BLUE, (0, 0, 3, height))
    return image


def colour(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


def code_of(source: ImageSource, **options: Any) -> str:
    with pytest.raises(BadImage) as caught:
        decode(source, **options)
    assert caught.value.code in ERROR_CODES
    assert "\n" not in str(caught.value)
    return caught.value.code


def chunk(kind: bytes, data: bytes, checksum: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ checksum)


def png(depth: int, colour_type: int, rows: bytes, width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in all_chunks)


class Layout(NamedTuple):
    """How a TIFF stores its pixels."""

    bits: tuple[int, ...]
    photometric: int = 1
    sample_format: int = 1
    extra: int | None = None
    compression: int = 1
    planes: int = 1
    """2 for separate ones."""
    rows: int | None = None
    tile: tuple[int, int] | None = None
    offsets: Sequence[tuple[int, int]] = ()
    """(number, offset) of the strips or tiles that are to be looked for elsewhere."""
    tags: Sequence[tuple[int, int, int]] = ()
    """(tag, type, value), written as they are."""


def tiff(pixels: bytes | list[bytes], width: int, height: int, **layout: Any) -> bytes:
    """A little-endian TIFF of any `Layout`, its directory before its pixels.

    `pixels` are one strip, or a list of strips or tiles as they are stored.
    """
    return _tiff([pixels] if isinstance(pixels, bytes) else pixels, width, height, Layout(**layout))


def _tiff(pieces: list[bytes], width: int, height: int, layout: Layout) -> bytes:
    bits, tile = layout.bits, layout.tile
    places, sizes = (324, 325) if tile else (273, 279)
    longs = {
        256: width,
        257: height,
        259: layout.compression,
        262: layout.photometric,
        277: len(bits),
        284: layout.planes,
    }
    longs |= {339: layout.sample_format} | ({} if layout.extra is None else {338: layout.extra})
    longs |= {322: tile[0], 323: tile[1]} if tile else {278: layout.rows or height}
    entries = {tag: (4, 1, struct.pack("<I", value)) for tag, value in longs.items()}
    entries[258] = (3, len(bits), struct.pack(f"<{len(bits)}H", *bits))
    entries[sizes] = entries[places] = (4, len(pieces), struct.pack(f"<{len(pieces)}I", *map(len, pieces)))
    entries |= {tag: (kind, 1, struct.pack("<I", value)) for tag, kind, value in layout.tags}
    behind = 8 + 2 + 12 * len(entries) + 4
    start = behind + sum(len(data) for _, _, data in entries.values() if len(data) > 4)
    where = list(accumulate(map(len, pieces[:-1]), initial=start))
    for number, offset in layout.offsets:
        where[number] = offset
    entries[places] = (4, len(pieces), struct.pack(f"<{len(pieces)}I", *where))
    table = values = b""
    for tag, (kind, count, data) in sorted(entries.items()):
        in_place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", behind + len(values))
        table += struct.pack("<HHI", tag, kind, count) + in_place
        values += data if len(data) > 4 else b""
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + values + b"".join(pieces)


def preprocessing() -> Preprocessing:
    """Of colour pictures, to 6 x 6 pixels."""
    return Preprocessing(size=(6, 6), channels=3, resize=6, mean=(0.5,) * 3, std=(0.5,) * 3)
