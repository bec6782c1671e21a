"""An image in memory is decoded as the file of the same pixels, whatever it is kept in; what is unclear is refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from densekit.data.decoding.decode import decode
from densekit.errors import BadImage, InvalidInput

SIZE = (9, 6)  # wide, high


def noise(mode: str) -> Image.Image:
    """An image of any mode, from a picture of random colours and transparency."""
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode in ("I", "I;16"):
        return Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) | pixels[..., 1]).convert(mode)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    if mode in ("La", "PA"):
        return image.convert("LA").convert(mode)
    if mode == "RGBa":
        return image.convert(mode)
    if mode in ("LA", "RGBA"):
        return image.convert(mode)
    return image.convert("RGB").convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def same(source: Any, content: bytes, channels: int = 3) -> bool:
    ours, files = decode(source, channels=channels).image, decode(content, channels=channels).image
    return ours.mode == files.mode and ours.size == files.size and ours.tobytes() == files.tobytes()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_pil_image_is_the_png_of_its_pixels(mode: str, channels: int) -> None:
    assert same(noise(mode), encoded(noise(mode)), channels)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "F"])
def test_modes_that_no_png_has_are_read_as_a_tiff_of_them(mode: str) -> None:
    assert same(noise(mode), encoded(noise(mode), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "plain"),
    [("HSV", "RGB"), ("RGBX", "RGB"), ("PA", "RGBA"), ("La", "LA"), ("RGBa", "RGBA"), ("I", "I;16")],
)
def test_rare_modes_are_read_as_pillow_converts_them(mode: str, plain: str) -> None:
    assert same(noise(mode), encoded(noise(mode).convert(plain)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_an_opened_photograph_stands_upright_as_its_file_does(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(noise("RGB"), format, exif=exif)
    opened, loaded = (Image.open(io.BytesIO(content)) for _ in range(2))
    loaded.load()
    assert same(opened, content)
    assert same(opened, content)  # decoding it once has changed nothing
    assert same(loaded, content)


def test_transparent_colours_of_an_opened_png_are_those_of_the_file() -> None:
    content = encoded(noise("P"), transparency=3)
    assert same(Image.open(io.BytesIO(content)), content)


def test_the_image_that_was_given_is_not_changed() -> None:
    image = noise("L")
    image.info["transparency"] = 7
    before = image.tobytes()
    found = decode(image, channels=1).image
    found.paste(0, (0, 0, *SIZE))
    assert (image.mode, image.size, image.tobytes(), image.info) == ("L", SIZE, before, {"transparency": 7})


def test_the_current_frame_of_an_animation_is_taken_and_stays_current() -> None:
    frames = [Image.new("L", SIZE, shade) for shade in (0, 120, 240)]
    opened: Any = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    opened.seek(1)
    assert decode(opened, channels=1).image.getpixel((0, 0)) == 120
    assert opened.tell() == 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_arrays_and_tensors_are_the_png_of_their_pixels(mode: str) -> None:
    image = noise(mode)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy())
    tensor = tensor if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    for source in (array, np.asfortranarray(array), np.flip(np.flip(array).copy()), tensor, tensor.contiguous()):
        assert same(source, encoded(image))


def test_single_channels_and_the_other_byte_order_are_read() -> None:
    grey, deep = np.asarray(noise("L")), np.asarray(noise("I;16"))
    assert same(grey[:, :, None], encoded(noise("L")))
    assert same(torch.from_numpy(grey.copy())[None], encoded(noise("L")))
    assert same(deep.astype(">u2"), encoded(noise("I;16")))


CHW = np.zeros((3, 40, 30), np.uint8)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((4, 4)), "float64.*uint8"),
        (np.zeros((4, 4), np.float32), "float32.*round"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), bool), "bool"),
        (torch.zeros(3, 4, 4), "tensor holds float32"),
        (torch.zeros(3, 4, 4, dtype=torch.bfloat16, requires_grad=True), "bfloat16"),
        (CHW, r"\(3, 40, 30\).*moveaxis"),
        (torch.zeros(40, 30, 3, dtype=torch.uint8), r"\(40, 30, 3\).*permute\(2, 0, 1\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "one by one"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "one by one"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixel"),
        (np.zeros((4, 4, 3), np.uint16), "only grey"),
        (np.zeros((40, 40, 5), np.uint8), "C of 1 to 4"),
    ],
)
def test_an_unclear_array_is_a_bad_image_that_names_the_rule(source: Any, says: str) -> None:
    with pytest.raises(BadImage, match=says):
        decode(source)


def _stood_at_its_end(content: bytes) -> Any:
    file = io.BytesIO()
    file.write(content)
    return file


class _Download:
    """As an answer of the network: read once, from where it stands."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


@pytest.mark.parametrize("kept", [bytearray, memoryview, io.BytesIO, _stood_at_its_end, _Download])
def test_encoded_bytes_may_be_in_any_buffer_or_file_object(kept: Callable[[bytes], Any]) -> None:
    content = encoded(noise("RGB"))
    assert same(kept(content), content)


def test_a_file_object_that_gives_no_bytes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise("RGB")))
    with open(tmp_path / "a.png", "rb") as file:
        assert same(file, encoded(noise("RGB")))
    with pytest.raises(BadImage, match="file object cannot be read"):
        decode(file)
    with pytest.raises(InvalidInput, match="mode 'rb'"):
        decode(io.StringIO("no picture"))  # type: ignore[arg-type]  # that is what is refused


def test_size_limits_and_damage_are_those_of_files() -> None:
    with pytest.raises(BadImage) as caught:
        decode(np.zeros((20, 20), np.uint8), max_pixels=399)
    assert caught.value.code == "too_many_pixels"
    cut = Image.open(io.BytesIO(encoded(noise("RGB").resize((64, 64)), "JPEG")[:900]))
    with pytest.raises(BadImage) as caught:
        decode(cut)
    assert caught.value.code == "truncated"


@pytest.mark.parametrize("source", [None, 3, [[0, 1]], {"image": b""}])
def test_what_is_no_image_is_named_with_all_that_is_taken(source: Any) -> None:
    with pytest.raises(InvalidInput, match="NumPy array"):
        decode(source)
