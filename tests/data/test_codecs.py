"""Where Pillow by itself would refuse a good picture, make up a bad one, or change the process it runs in."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from densekit.data.decoding import codecs
from densekit.data.decoding.decode import check_header, decode
from densekit.errors import BadImage
from tests.data.pictures import NEEDS_PILLOW_13, RED, chunk, code_of, colour, encoded, png, scene, tiff

# Damaged metadata


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """A directory of (tag, type, count, value) as a segment."""
    table = b"".join(struct.pack("<HHI4s", tag, kind, count, value) for tag, kind, count, value in entries)
    return segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4))


PHOTOSHOP = b"Photoshop 3.0\0"
TURNED = (ExifTags.Base.Orientation, 3, 1, b"\x06\0\0\0")
DAMAGED_SEGMENTS = {
    "photoshop without a name": segment(0xED, PHOTOSHOP + b"8BIM\x04\x04"),
    "photoshop without a size": segment(0xED, PHOTOSHOP + b"8BIM\x04\x04\0\0\0"),
    "photoshop without its resolution": segment(0xED, PHOTOSHOP + b"8BIM\x03\xed\0\0\0\0\0\x10\0"),
    "exif with a resolution of one byte": exif((0x11A, 7, 1, b"\1"), (0x128, 3, 1, b"\2")),
    "exif with a resolution of one letter": exif((0x11A, 2, 2, b"1"), (0x128, 3, 1, b"\2")),
    "a colour profile without its number": segment(0xE2, b"ICC_PROFILE\0"),
    "a short JFIF": segment(0xE0, b"JFIF\0"),
    "a short Adobe": segment(0xEE, b"Adobe"),
}


@pytest.mark.parametrize("damaged", DAMAGED_SEGMENTS.values(), ids=DAMAGED_SEGMENTS)
def test_a_jpeg_with_damaged_metadata_has_its_pixels(damaged: bytes) -> None:
    whole = encoded(scene(), "JPEG")
    assert decode(whole[:2] + damaged + whole[2:]).image == decode(whole).image


@pytest.mark.parametrize("damaged", DAMAGED_SEGMENTS.values(), ids=DAMAGED_SEGMENTS)
def test_a_jpeg_with_damaged_metadata_still_stands_upright(damaged: bytes) -> None:
    whole = encoded(scene(), "JPEG")
    assert decode(whole[:2] + exif(TURNED) + damaged + whole[2:]).image.size == (16, 24)


def test_a_jpeg_with_damaged_metadata_keeps_its_colour_space() -> None:
    """Adobe's segment says that these are not YCbCr."""
    whole = encoded(Image.new("RGB", (8, 8), RED), "JPEG", keep_rgb=True, quality=100)
    damaged = whole[:2] + DAMAGED_SEGMENTS["photoshop without a name"] + whole[2:]
    assert np.allclose(colour(decode(damaged).image), RED, atol=2)


def test_a_jpeg_with_damaged_metadata_is_truncated_where_it_is() -> None:
    whole = encoded(Image.effect_noise((64, 64), 90), "JPEG")
    damaged = whole[:2] + DAMAGED_SEGMENTS["photoshop without a name"] + whole[2:]
    assert code_of(damaged[: len(damaged) // 2]) == "truncated"


DAMAGED_CHUNKS = {
    "wrong checksum": chunk(b"tEXt", b"Title\0a picture", checksum=1),
    "wrong checksum of an orientation": chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0", checksum=1),
    "short gamma": chunk(b"gAMA", b"\0"),
    "short chromaticities": chunk(b"cHRM", b"\0\0\0\0\0"),
    "short size": chunk(b"pHYs", b"\0\0"),
    "short animation": chunk(b"acTL", b"\0"),
    "a profile compressed in an unknown way": chunk(b"iCCP", b"name\0\x09"),
    "a profile of 3 MB": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(3_000_000))),
    "a text of 3 MB": chunk(b"zTXt", b"name\0\0" + zlib.compress(bytes(3_000_000))),
}


@pytest.mark.parametrize("damaged", DAMAGED_CHUNKS.values(), ids=DAMAGED_CHUNKS)
def test_a_png_with_damaged_metadata_has_its_pixels(damaged: bytes) -> None:
    """Before the pixels, or behind them; 33 bytes are the signature and the header, 12 the end."""
    whole = encoded(scene(), "PNG")
    assert decode(whole[:33] + damaged + whole[33:]).image == scene()
    assert decode(whole[:-12] + damaged + whole[-12:]).image == scene()


def test_a_png_with_damaged_metadata_keeps_its_orientation_and_its_transparency() -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    whole = encoded(scene(), "PNG", exif=turned, transparency=RED)
    image = decode(whole[:33] + DAMAGED_CHUNKS["short gamma"] + whole[33:], channels=4).image
    assert image.size == (16, 24)
    assert image.getchannel("A").getextrema() == (0, 255)


def test_damaged_pixels_of_a_png_are_not_metadata() -> None:
    whole = encoded(scene(), "PNG")
    place = whole.index(b"IDAT") + 20
    assert (
        code_of(whole[:33] + DAMAGED_CHUNKS["short gamma"] + whole[33:place] + b"?" + whole[place + 1 :]) == "corrupt"
    )


@pytest.mark.parametrize(
    "tags",
    [
        [(282, 2, 0x00413141), (283, 2, 0x00413141), (296, 3, 3)],  # a resolution in letters
        [(700, 9, 5), (34665, 9, 0xF0000000), (34853, 9, 0xF0000000)],  # XMP that is a number, directories nowhere
    ],
)
def test_a_tiff_with_damaged_metadata_has_its_pixels(tags: list[tuple[int, ...]]) -> None:
    assert colour(decode(tiff(bytes([7] * 4), 2, 2, bits=(8,), tags=tags), channels=1).image) == 7


# Strips and tiles of TIFF


SLOPE = np.arange(8 * 6 * 4).reshape(6, 8, 4).astype(np.uint8)  # 8 wide, 6 high, RGBA
DEFLATE = 8


def pieces(compression: int, count: int = 3) -> list[bytes]:
    rows = [part.tobytes() for part in np.split(SLOPE[..., :3], count)]
    return [zlib.compress(row) for row in rows] if compression == DEFLATE else rows


def striped(strips: list[bytes], compression: int, **options: Any) -> bytes:
    options = {"rows": 2, "bits": (8, 8, 8), "photometric": 2, **options}
    return tiff(strips, 8, 6, compression=compression, **options)


@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_strips_make_the_picture(compression: int) -> None:
    """Otherwise the next tests prove nothing."""
    assert np.array_equal(np.asarray(decode(striped(pieces(compression), compression)).image), SLOPE[..., :3])


@pytest.mark.parametrize("offset", [0, 10_000, 2**32 - 1])
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize("look", [decode, check_header])
def test_a_strip_outside_the_file_is_truncated(
    look: Callable[[bytes], object], compression: int, number: int, offset: int
) -> None:
    source = striped(pieces(compression), compression, offsets=[(number, offset)])
    with pytest.raises(BadImage, match=rf"strip {number + 1} of 3 is not in the file"):
        look(source)
    assert code_of(source) == "truncated"


@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_too_few_strips_are_truncated_not_black(compression: int) -> None:
    assert code_of(striped(pieces(compression)[:2], compression)) == "truncated"


def test_too_few_tiles_are_truncated_not_black() -> None:
    tiles = [zlib.compress(bytes(16 * 16))] * 3
    assert code_of(tiff(tiles, 32, 32, bits=(8,), tile=(16, 16), compression=DEFLATE)) == "truncated"


@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_a_tiff_cut_anywhere_is_truncated(compression: int) -> None:
    whole = striped(pieces(compression), compression)
    assert {code_of(whole[:end]) for end in range(8, len(whole))} == {"truncated"}


def test_an_empty_strip_is_truncated() -> None:
    first, _, last = pieces(DEFLATE)
    assert code_of(striped([first, b"", last], DEFLATE)) == "truncated"


@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("bands", "extra"), [(3, None), (4, 2), pytest.param(4, 0, marks=NEEDS_PILLOW_13)])
def test_separate_planes_are_put_together(
    bands: int, extra: int | None, depth: int, tile: tuple[int, ...] | None, compression: int
) -> None:
    """Pillow reads the low bytes of 16-bit planes as neighbours (13.0), and stumbles over a plane that is not shown."""
    planes = [SLOPE[..., band].astype("<u2") * 257 if depth == 16 else SLOPE[..., band] for band in range(bands)]
    if tile:
        planes = [np.pad(plane, ((0, 10), (0, 8))) for plane in planes]
    stored = [zlib.compress(plane.tobytes()) if compression == DEFLATE else plane.tobytes() for plane in planes]
    options = {"photometric": 2, "planes": 2, "extra": extra, "tile": tile, "compression": compression}
    image = decode(tiff(stored, 8, 6, bits=(depth,) * bands, **options), channels=4).image
    assert np.array_equal(np.asarray(image)[..., :3], SLOPE[..., :3])
    assert np.array_equal(np.asarray(image)[..., 3], SLOPE[..., 3] if extra == 2 else np.full((6, 8), 255))


@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize(("bands", "photometric", "extra"), [(2, 1, 2), (3, 8, None)])
def test_planes_that_pillow_would_mix_up_are_unsupported(
    bands: int, photometric: int, extra: int | None, compression: int
) -> None:
    planes = [SLOPE[..., band].tobytes() for band in range(bands)]
    stored = [zlib.compress(plane) for plane in planes] if compression == DEFLATE else planes
    options = {"photometric": photometric, "planes": 2, "extra": extra, "compression": compression}
    assert code_of(tiff(stored, 8, 6, bits=(8,) * bands, **options)) == "unsupported_mode"


@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize(
    ("side", "code"), [(2**31 - 16, "too_many_pixels"), (10_016, "too_many_pixels"), (9_984, "corrupt")]
)
@pytest.mark.parametrize("look", [decode, check_header])
def test_a_tile_larger_than_any_picture_is_not_made_room_for(
    look: Callable[[bytes], object], side: int, code: str, compression: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9984 x 9984 pixels of 8 bytes are 800 MB, from a file of 200 bytes; for one picture of 10 x 10."""
    monkeypatch.setattr(TiffImageFile, "load", lambda _: pytest.fail("decoded"))
    bits = {"bits": (16,) * 4, "photometric": 2, "extra": 2}
    source = tiff(zlib.compress(bytes(99)), 10, 10, tile=(side, side), compression=compression, **bits)
    with pytest.raises(BadImage, match=f"tiles of {side} x {side} pixels") as caught:
        look(source)
    assert caught.value.code == code


def test_a_tile_somewhat_larger_than_its_picture_is_ordinary() -> None:
    source = tiff(zlib.compress(bytes([9]) * 256 * 256), 10, 10, bits=(8,), tile=(256, 256), compression=DEFLATE)
    assert decode(source, max_pixels=100).image.size == (10, 10)


@pytest.mark.parametrize("rows", [2**31 - 1, 2**32 - 1])
def test_a_strip_may_claim_any_number_of_rows(rows: int) -> None:
    strip = zlib.compress(SLOPE[..., :3].tobytes())
    assert np.array_equal(np.asarray(decode(striped([strip], DEFLATE, rows=rows)).image), SLOPE[..., :3])


@pytest.mark.parametrize("options", [{"tile": (0, 16)}, {"tile": (16, 0)}, {"tags": [(278, 4, 0)]}])
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_strips_and_tiles_of_nothing_are_corrupt(compression: int, options: dict[str, Any]) -> None:
    assert code_of(tiff(bytes(64), 8, 8, bits=(8,), compression=compression, **options)) == "corrupt"


# What belongs to the whole process


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WebP"])
def test_the_limit_of_pillow_neither_refuses_nor_changes(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(encoded(scene(), file_format)).image.size == (24, 16)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_an_ordinary_decode_does_not_touch_the_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, seen = Image.MAX_IMAGE_PIXELS, []
    load = Image.Image.load

    def watched(image: Image.Image) -> Any:
        seen.append(Image.MAX_IMAGE_PIXELS)
        return load(image)

    monkeypatch.setattr(Image.Image, "load", watched)
    decode(encoded(scene(), "PNG"))
    assert set(seen) == {limit}


def odd_images() -> Iterator[bytes]:
    """Images that make Pillow warn."""
    yield encoded(scene().quantize(8), "PNG", transparency=bytes([0, 128]))
    yield png(8, 0, b"\0\0", 1, 1, (b"acTL", bytes(8)))
    yield encoded(scene(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x05\0\xff\xff\xff\xff" * 9)
    yield tiff(bytes(12), 4, 3, bits=(8,), tags=[(34665, 4, 0xFFFFFFF0)])


def test_pillow_does_warn_about_the_odd_images() -> None:
    """Otherwise the next test proves nothing."""
    for source in odd_images():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Image.open(io.BytesIO(source)).convert("RGB")
        assert caught


def test_warnings_of_pillow_do_not_come_out_even_as_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sizes = [decode(source).image.size for source in odd_images()]
    assert sizes == [(24, 16), (1, 1), (24, 16), (4, 3)]


def test_warnings_of_others_are_left_alone() -> None:
    before = list(warnings.filters)
    decode(encoded(scene(), "PNG"))
    code_of(b"text")
    assert list(warnings.filters) == before


def test_threads_agree_and_leave_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    before, sources, start = list(warnings.filters), [*odd_images(), encoded(scene(), "WebP")], threading.Barrier(8)

    def work(number: int) -> list[bytes]:
        start.wait()
        return [decode(source).image.tobytes() for source in sources * 20]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert all(result == results[0] for result in results)
    assert list(warnings.filters) == before
    assert Image.MAX_IMAGE_PIXELS == 10


def test_warnings_of_pillow_are_only_kept_from_the_thread_that_decodes() -> None:
    def warn(text: str) -> None:
        warnings.warn_explicit(text, UserWarning, "Image.py", 1, module="PIL.Image")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with codecs.quiet(), ThreadPoolExecutor(1) as elsewhere:
            warn("here")
            elsewhere.submit(warn, "elsewhere").result()
    assert [str(warning.message) for warning in caught] == ["elsewhere"]
