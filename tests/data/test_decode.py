"""The decoder: every picture the way a person sees it, every failure a BadImage with a known code."""

import functools
import gc
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from densekit.data.decoding import dicom
from densekit.data.decoding.decode import ERROR_CODES, IMAGE_SUFFIXES, check_header, decode
from densekit.data.decoding.decode import _shallow as shallow
from densekit.errors import BadImage, InvalidInput
from tests.data.pictures import BLUE, GREEN, NEEDS_PILLOW_13, RED, WHITE, code_of, colour, encoded, png, scene, tiff

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # written for "turn me right by 90 degrees", so stored turned left
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

# What comes out


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_gives_the_channels_asked_for(mode: str, channels: int) -> None:
    image = decode(encoded(scene().convert(mode), "PNG"), channels=channels).image
    assert type(image) is Image.Image
    assert (image.mode, image.size) == ({1: "L", 3: "RGB", 4: "RGBA"}[channels], (24, 16))


@pytest.mark.parametrize("channels", [0, 2, 5, "RGB"])
def test_other_channels_are_wrong_usage(channels: Any) -> None:
    with pytest.raises(InvalidInput, match="1 is grey"):
        decode(b"", channels=channels)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WebP"])
def test_lossless_formats_agree_to_the_last_bit(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WebP" else {}
    picture = scene().quantize(16).convert("RGB")
    assert decode(encoded(picture, file_format, **options)).image == picture


def test_a_path_a_string_and_bytes_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    scene().save(path, compression="tiff_lzw")
    pictures = [decode(source).image for source in (path, str(path), path.read_bytes())]
    assert pictures[0] == pictures[1] == pictures[2] == scene()


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really_png.jpg"
    scene().save(path, "PNG")
    assert decode(path).image == scene()


def test_grey_from_colour_is_rec_601_luma() -> None:
    assert [
        colour(decode(encoded(Image.new("RGB", (2, 2), c), "PNG"), channels=1).image) for c in (RED, GREEN, BLUE)
    ] == [
        76,
        150,
        29,
    ]


def test_colour_from_grey_repeats_it() -> None:
    ramp = Image.linear_gradient("L")
    assert decode(encoded(ramp, "PNG")).image == Image.merge("RGB", (ramp, ramp, ramp))


def test_the_result_carries_no_metadata() -> None:
    image = decode(encoded(scene(), "PNG", dpi=(72, 72), transparency=RED)).image
    assert image.info == {}
    assert not image.getexif()


# Orientation


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WebP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_give_the_upright_picture(orientation: int, file_format: str) -> None:
    stored = scene().transpose(TURNS[orientation]) if orientation > 1 else scene()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WebP": {"lossless": True}}
    options = lossless.get(file_format, {})
    upright = decode(encoded(stored, file_format, exif=exif, **options)).image
    difference = np.abs(np.asarray(upright, int) - np.asarray(scene(), int)) if upright.size == (24, 16) else None
    assert difference is not None
    assert difference.max() <= (60 if file_format == "JPEG" else 0)
    assert difference.mean() < 2


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_part_is_what_would_be_cut_out_afterwards(orientation: int, mode: str, channels: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(scene().convert("I" if mode == "I;16" else mode).convert(mode), "PNG", exif=exif)
    whole = decode(content, channels=channels).image
    asked = []

    def part(width: int, height: int) -> tuple[int, int, int, int]:
        asked.append((width, height))
        return 3, 2, width - 4, height - 1

    cut = decode(content, channels=channels, part=part).image
    assert asked == [whole.size]
    assert cut.mode == whole.mode
    assert cut.tobytes() == whole.crop(part(*whole.size)).tobytes()
    assert type(cut) is Image.Image
    assert cut.info == {}


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_out_of_range_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert decode(encoded(scene(), "PNG", exif=exif)).image == scene()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0" + b"\xff" * 40,
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x05\0\xff\xff\xff\xff" * 9,
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02up\0\0\0\0\0\0",
    ],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP"])
def test_damaged_exif_does_not_fail_a_good_image(file_format: str, exif: bytes) -> None:
    assert decode(encoded(scene(), file_format, exif=exif)).image.size == (24, 16)


@pytest.mark.parametrize("tag", [34665, 34853, 40965])
@pytest.mark.parametrize("kind", [2, 3, 4, 5, 12])
def test_a_tiff_whose_exif_points_nowhere_decodes_as_pillow_10_does_not(tag: int, kind: int) -> None:
    source = tiff(bytes(range(12)), 4, 3, bits=(8,), tags=[(tag, kind, 0xFFFFFFF0)])
    assert np.asarray(decode(source, channels=1).image).ravel().tolist() == list(range(12))


def test_a_tiff_whose_xmp_is_a_number_decodes() -> None:
    """Pillow looks for an orientation in it while it loads the pixels (13.0: TypeError)."""
    assert colour(decode(tiff(bytes([7]), 1, 1, bits=(8,), tags=[(700, 3, 5)]), channels=1).image) == 7


# Transparency


@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_laid_over_white_whatever_hides_under_it(channels: int) -> None:
    image = decode(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG"), channels=channels).image
    assert colour(image) == {1: 255, 3: WHITE}[channels]


def test_half_transparent_red_over_white_is_pink() -> None:
    image = decode(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128)), "PNG")).image
    assert colour(image) == (255, 127, 127)


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    opaque = scene()
    opaque.putalpha(255)
    assert decode(encoded(opaque, "PNG")).image == scene()


def test_four_channels_keep_the_alpha_and_the_colour_under_it() -> None:
    assert colour(decode(encoded(Image.new("RGBA", (2, 2), (9, 8, 7, 3)), "PNG"), channels=4).image) == (9, 8, 7, 3)


def test_four_channels_of_an_opaque_image_are_opaque() -> None:
    assert decode(encoded(scene(), "PNG"), channels=4).image.getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_palette_entry_becomes_white(transparency: int | bytes, channels: int) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*BLUE, *RED, *GREEN])
    image.putpixel((1, 0), 1)
    left, right = np.asarray(decode(encoded(image, "PNG", transparency=transparency), channels=channels).image)[
        0
    ].tolist()
    assert (left, right) == ({1: (29, 255), 3: (list(BLUE), list(WHITE))}[channels])


def test_a_transparent_gif_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 0), 1)
    assert np.asarray(decode(encoded(image, "GIF", transparency=1)).image)[0].tolist() == [list(BLUE), list(WHITE)]


@pytest.mark.parametrize(("mode", "key", "black"), [("L", 0, 7), ("1", 0, None), ("RGB", (0, 0, 0), (7, 7, 7))])
def test_a_transparent_colour_key_becomes_white(
    mode: str, key: int | tuple[int, ...], black: int | tuple[int, ...] | None
) -> None:
    image = Image.new(mode, (2, 1), key)
    if black is not None:
        image.putpixel((1, 0), black)
    pixels = np.asarray(decode(encoded(image, "PNG", transparency=key)).image)[0].tolist()
    assert pixels == [list(WHITE), list(WHITE) if black is None else [7, 7, 7]]


@pytest.mark.parametrize(("depth", "row"), [(2, 0b00011011), (4, 0x0F)])
def test_the_colour_key_of_a_shallow_png_is_in_its_own_range(depth: int, row: int) -> None:
    """Pillow compares the key 3 of a 2-bit image with 255 (13.0)."""
    key = (b"tRNS", struct.pack(">H", 2**depth - 1))
    image = decode(png(depth, 0, bytes([0, row]), 8 // depth, 1, key), channels=4).image
    assert [pixel[3] for pixel in np.asarray(image)[0].tolist()] == [255] * (8 // depth - 1) + [0]


def test_the_colour_key_of_a_16_bit_png_is_in_its_own_range() -> None:
    """Pillow compares the key 0x1234 with 0x12 (13.0)."""
    key = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    row = b"\0" + key + struct.pack(">3H", 0x3412, 0x7856, 0xBC9A)
    pixels = np.asarray(decode(png(16, 2, row, 2, 1, (b"tRNS", key))).image)[0].tolist()
    assert pixels == [list(WHITE), [0x34, 0x78, 0xBC]]


def test_the_colour_key_of_a_16_bit_grey_png_becomes_white() -> None:
    row = b"\0" + struct.pack(">2H", 0x1234, 0x1235)
    assert np.asarray(decode(png(16, 0, row, 2, 1, (b"tRNS", b"\x12\x34")), channels=1).image)[0].tolist() == [255, 18]


def test_a_fully_transparent_image_is_noticed() -> None:
    assert decode(encoded(Image.new("RGBA", (2, 2)), "PNG")).notices == ("every pixel is fully transparent",)


# Colour spaces


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_red_is_red(name: str) -> None:
    """Photoshop writes CMYK JPEG inverted, and so does Pillow."""
    assert np.allclose(colour(decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), name)).image), RED, atol=2)


@pytest.mark.parametrize(
    ("mode", "compression"),
    [("LAB", None), ("LAB", "tiff_lzw"), ("YCbCr", "tiff_lzw"), pytest.param("YCbCr", None, marks=NEEDS_PILLOW_13)],
)
def test_a_tiff_in_another_colour_space_has_its_colour(mode: str, compression: str | None) -> None:
    orange = Image.new("RGB", (8, 8), (230, 140, 40))
    image = decode(encoded(orange.convert(mode), "TIFF", compression=compression)).image
    assert np.allclose(colour(image), (230, 140, 40), atol=4)


@NEEDS_PILLOW_13
def test_premultiplied_grey_is_divided_by_its_alpha() -> None:
    source = tiff(bytes([64, 128]), 1, 1, bits=(8, 8), extra=1)
    assert colour(decode(source, channels=4).image) == (127, 127, 127, 128)


def test_premultiplied_colour_is_divided_by_its_alpha() -> None:
    source = tiff(bytes([128, 64, 0, 128]), 1, 1, bits=(8, 8, 8, 8), photometric=2, extra=1)
    assert colour(decode(source, channels=4).image) == (255, 127, 0, 128)


def test_a_palette_with_an_alpha_channel_is_laid_over_white() -> None:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([*BLUE, *RED])
    with_alpha = image.convert("PA")
    with_alpha.putalpha(0)
    assert colour(decode(encoded(with_alpha, "TIFF")).image) == WHITE


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "LAB", "CMYK", "RGBX", "RGBa", "La", "PA", "P", "1"])
def test_no_eight_bit_mode_is_left_as_it_is(mode: str) -> None:
    """Modes that no file gives today included."""
    via = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    image = scene().convert(via).convert(mode) if via else scene().convert(mode)
    assert shallow(image).mode in ("L", "RGB", "RGBA")


# More than 8 bits


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B"), ("TIFF", "I"), ("PPM", "I")],
)
def test_a_16_bit_ramp_is_scaled_not_clipped(file_format: str, mode: str) -> None:
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "i4"}[mode]
    stored = Image.frombytes(mode, (256, 256), np.arange(65536).astype(kind).tobytes())
    levels = np.asarray(decode(encoded(stored, file_format), channels=1).image).ravel().astype(int)
    assert (np.diff(levels) >= 0).all()
    assert len(set(levels)) == 256
    np.testing.assert_array_equal(levels, np.round(np.arange(65536) * 255 / 65535))


def test_a_16_bit_grey_png_gives_the_same_colour_and_grey() -> None:
    stored = Image.frombytes("I;16", (2, 1), struct.pack("<2H", 0, 0x8000))
    assert np.asarray(decode(encoded(stored, "PNG")).image)[0].tolist() == [[0, 0, 0], [128, 128, 128]]


def test_a_16_bit_colour_png_keeps_its_high_bytes() -> None:
    row = b"\0" + struct.pack(">3H", 0xFFFF, 0x80FF, 0)
    assert colour(decode(png(16, 2, row, 1, 1)).image) == (255, 128, 0)


def test_white_of_a_12_bit_tiff_is_4095() -> None:
    assert colour(decode(tiff(b"\xff\xf8\x00", 2, 1, bits=(12,)), channels=1).image) == 255
    assert decode(tiff(b"\xff\xf8\x00", 2, 1, bits=(12,)), channels=1).image.getpixel((1, 0)) == 128


def test_zero_is_white_where_a_16_bit_tiff_says_so() -> None:
    source = tiff(struct.pack("<2H", 0, 65535), 2, 1, bits=(16,), photometric=0)
    assert np.asarray(decode(source, channels=1).image)[0].tolist() == [255, 0]


def test_32_bit_integers_within_16_bits_are_taken_as_16_bits_with_a_notice() -> None:
    decoded = decode(encoded(Image.new("I", (1, 1), 65535), "TIFF"), channels=1)
    assert colour(decoded.image) == 255
    assert decoded.notices == ("signed or 32-bit integers: 0 is black, 65535 is white",)


def test_16_bit_png_is_nothing_to_notice() -> None:
    assert decode(encoded(Image.new("I;16", (1, 1), 40_000), "PNG")).notices == ()


@pytest.mark.parametrize("value", [-1, 65536])
def test_32_bit_integers_past_16_bits_are_refused(value: int) -> None:
    assert code_of(encoded(Image.new("I", (2, 2), value), "TIFF")) == "unsupported_values"


def test_floats_from_0_to_1_are_scaled() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    image = decode(encoded(Image.fromarray(ramp), "TIFF"), channels=1).image
    assert np.asarray(image)[0].tolist() == list(range(256))


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_other_floats_are_refused(value: float) -> None:
    assert code_of(encoded(Image.new("F", (2, 2), value), "TIFF")) == "unsupported_values"


# More than one picture


@pytest.mark.parametrize("file_format", ["GIF", "WebP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken_with_a_notice(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN, BLUE)]
    options = {"lossless": True} if file_format == "WebP" else {}
    decoded = decode(encoded(frames[0], file_format, save_all=True, append_images=frames[1:], duration=50, **options))
    assert colour(decoded.image) == RED
    assert decoded.notices == ("animated, 3 frames: the first is used",)


def test_the_first_page_of_a_document_is_taken_with_a_notice() -> None:
    pages = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN)]
    decoded = decode(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert colour(decoded.image) == RED
    assert decoded.notices == ("several pages: the first is used",)


def test_a_broken_later_frame_does_not_fail_the_first() -> None:
    frames = [Image.effect_noise((32, 32), 90) for _ in range(3)]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for cut in range(len(whole) * 2 // 3, len(whole), 97):
        assert decode(whole[:cut], channels=1).image == decode(whole, channels=1).image


def test_a_still_image_has_no_notice() -> None:
    assert all(decode(encoded(scene(), f)).notices == () for f in ("GIF", "WebP", "PNG", "TIFF", "JPEG", "BMP", "PPM"))


# What is refused


def test_a_missing_file(tmp_path: Path) -> None:
    assert code_of(tmp_path / "none.png") == "missing"
    (tmp_path / "file").touch()
    assert code_of(tmp_path / "file" / "none.png") == "missing"


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    assert code_of(tmp_path) == "unreadable"


def test_a_named_pipe_is_unreadable_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert code_of(tmp_path / "pipe.png") == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    scene().save(path)
    path.chmod(0)
    assert code_of(path) == "unreadable"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_refusal_of_the_system_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    path = tmp_path / "scene.png"
    scene().save(path)
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(error))
    assert code_of(path) == "unreadable"


def test_a_path_that_cannot_be_is_unreadable() -> None:
    assert code_of("a\0b.png") == "unreadable"


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert code_of(tmp_path / "empty.png") == "empty_file"
    assert code_of(b"") == "empty_file"


@pytest.mark.parametrize(
    "content", [b"hello", b"<svg/>", b"%PDF-1.7", b"BMW is a car maker", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_other_files_are_not_images(content: bytes) -> None:
    assert code_of(content * 9) == "not_an_image"


@pytest.mark.parametrize(
    ("file_format", "options"),
    [(name, {}) for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WebP")]
    + [("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"}), ("WebP", {"lossless": True})],
)
def test_a_file_cut_anywhere_is_truncated(file_format: str, options: dict[str, Any]) -> None:
    """In its header, its palette, its pixels; a TIFF that ends with its directory has lost that first."""
    noise = Image.effect_noise((12, 10), 90)
    whole = encoded(noise if file_format == "GIF" else noise.convert("RGB"), file_format, **options)
    picture = decode(whole).image

    def outcome(source: bytes) -> str:
        try:
            return "whole" if decode(source).image == picture else "another picture"
        except BadImage as error:
            return error.code

    cuts = [outcome(whole[:end]) for end in range(16, len(whole))]
    assert set(cuts[:-24]) == {"truncated"}
    assert set(cuts[-24:]) <= {"truncated", "whole"}  # checksums and marks of the end, which some readers do without


def test_damaged_pixels_are_corrupt() -> None:
    whole = encoded(Image.effect_noise((64, 64), 90), "PNG")
    middle = whole.index(b"IDAT") + 4
    assert code_of(whole[:middle] + b"\xaa" * 64 + whole[middle + 64 :]) == "corrupt"


def test_a_variant_that_is_not_read_is_unsupported_not_damaged() -> None:
    assert code_of(tiff(bytes(8), 1, 1, bits=(64,), sample_format=3)) == "unsupported_mode"
    twelve_bit_jpeg = encoded(scene(), "JPEG").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
    assert code_of(twelve_bit_jpeg) == "unsupported_mode"


def test_no_memory_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    source = encoded(scene(), "PNG")
    monkeypatch.setattr(Image.Image, "copy", lambda *_: (_ for _ in ()).throw(MemoryError()))
    assert code_of(source) == "out_of_memory"


def test_an_error_message_names_the_file_and_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines.png"
    path.write_bytes(b"no")
    with pytest.raises(BadImage, match=r"two\\nlines\.png does not begin like"):
        decode(path)


# Limits


BOMB = png(8, 0, b"", 60_000, 60_000)  # 3.6 gigapixels in less than 100 bytes


@pytest.mark.parametrize("look", [decode, check_header])
def test_too_many_pixels_are_seen_in_the_header(look: Callable[[Any], object]) -> None:
    with pytest.raises(BadImage, match=r"3,600,000,000 pixels .* limit is 100,000,000") as caught:
        look(BOMB)
    assert caught.value.code == "too_many_pixels"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WebP"])
def test_the_limit_is_exact(file_format: str) -> None:
    source = encoded(scene(), file_format)
    assert decode(source, max_pixels=24 * 16).image.size == (24, 16)
    assert code_of(source, max_pixels=24 * 16 - 1) == "too_many_pixels"


def test_check_header_does_not_decode_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    source = encoded(scene(), "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    check_header(source)


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty_file"), (b"text", "not_an_image"), (BOMB[:20], "truncated")]
)
def test_check_header_has_the_codes_of_decode(content: bytes, code: str) -> None:
    with pytest.raises(BadImage) as caught:
        check_header(content)
    assert caught.value.code == code == code_of(content)


# Files and processes


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
@pytest.mark.parametrize("look", [decode, check_header])
def test_no_file_stays_open_after_success_or_failure(tmp_path: Path, look: Callable[[Any], object]) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN)]
    whole = encoded(scene(), "TIFF", compression="tiff_lzw")
    contents = [
        encoded(scene(), "PNG"),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        whole,
        whole[:-50],
        b"text",
        b"",
        BOMB,
    ]
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for number, content in enumerate(contents):
        path = tmp_path / str(number)
        path.write_bytes(content)
        with suppress(BadImage):
            look(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_decoded_image_and_the_decoder_travel_to_worker_processes() -> None:
    decoded = pickle.loads(pickle.dumps(decode(encoded(scene(), "GIF"))))
    work = pickle.loads(pickle.dumps(functools.partial(decode, channels=3)))
    assert work(encoded(scene(), "GIF")) == decoded


# Real files, and hostile ones


def test_every_suffix_belongs_to_a_format_that_is_read() -> None:
    Image.init()
    known = Image.registered_extensions()
    pillows = IMAGE_SUFFIXES - set(dicom.SUFFIXES)
    assert {known.get(suffix) for suffix in pillows} == {"BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"}


def test_the_photographs_of_scikit_image_decode() -> None:
    folder = Path(pytest.importorskip("skimage.data").__file__).parent
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg", ".gif")]
    assert len(paths) >= 3
    for path in paths:
        levels = np.asarray(decode(path).image)
        assert levels.shape[2] == 3
        assert levels.std() > 1, path


STAMPS = Path("/usr/share/tuxpaint/stamps")


@pytest.mark.skipif(not STAMPS.is_dir(), reason="the drawings of Debian's tuxpaint-stamps-default are not installed")
def test_every_stamp_of_tuxpaint_decodes() -> None:
    paths = sorted(STAMPS.rglob("*.png"))
    assert paths
    assert all(decode(path).image.mode == "RGB" for path in paths)


def seeds() -> list[bytes]:
    small = scene(20, 14)
    frames = [Image.effect_noise((12, 9), 80) for _ in range(2)]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return [
        encoded(small, "PNG", exif=exif),
        encoded(small.quantize(8), "PNG", transparency=bytes([0, 90])),
        encoded(Image.new("I;16", (5, 5), 900), "PNG"),
        encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        encoded(small, "JPEG", exif=exif),
        encoded(small.convert("CMYK"), "JPEG", progressive=True),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=3),
        encoded(small, "WebP", exif=exif),
        encoded(frames[0], "WebP", save_all=True, append_images=frames[1:], lossless=True),
        *(encoded(small, "TIFF", compression=c, exif=exif) for c in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        encoded(Image.new("F", (5, 5), 0.5), "TIFF"),
        encoded(small.quantize(8), "TIFF", save_all=True, append_images=[small]),
        encoded(small, "BMP"),
        encoded(small.quantize(8), "BMP"),
        encoded(small, "PPM"),
        b"P2\n# text\n3 2\n9\n1 2 3\n4 5 6\n",
    ]


SEEDS = seeds()


@st.composite
def hostile_bytes(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(SEEDS)))
    header = draw(st.booleans())  # most of what can go wrong stands at the front
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, min(len(content), 200 if header else len(content)) - 1))
        content[place] = draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(source=hostile_bytes(), channels=st.sampled_from([1, 3, 4]))
def test_hostile_bytes_give_an_image_or_a_bad_image(source: bytes, channels: int) -> None:
    try:
        mode = decode(source, channels=channels, max_pixels=100_000).image.mode
    except BadImage as bad:
        known, text = bad.code in ERROR_CODES, str(bad)
    else:
        known, text = mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels], ""
    assert known
    assert "\n" not in text
    assert len(text) < 400
