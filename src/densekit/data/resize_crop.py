"""A decoded image -> the frame of it that a network sees. Pillow alone, so that it needs no torch."""

from PIL import Image

from densekit.config import Preprocessing


def framed(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The shorter side scaled to `resize`, then the middle cut out; black around it where there is too little."""
    image = resized(_middle(image), preprocessing)
    height, width = preprocessing.size
    left, top = _start(image.width, width), _start(image.height, height)
    return image.crop((left, top, left + width, top + height))


def region(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """The part of an image of this (width, height) that `framed` keeps.

    Returns:
        Left, top, width and height as fractions of the image's. Where `framed` adds black around the image they exceed
        it: left and top are negative, width and height above 1.
    """
    cuts = _cuts(size)
    middle = (size[0] - 2 * cuts[0], size[1] - 2 * cuts[1])
    scaled = _scaled(middle, preprocessing)
    wanted = preprocessing.size[::-1]
    corner = [
        (cut + _start(there, kept) * inner / there) / side
        for side, cut, inner, there, kept in zip(size, cuts, middle, scaled, wanted, strict=True)
    ]
    width, height = (
        kept * inner / there / side for side, inner, there, kept in zip(size, middle, scaled, wanted, strict=True)
    )
    return corner[0], corner[1], width, height


def resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The shorter side scaled to `resize` pixels."""
    size = _scaled(image.size, preprocessing)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _scaled(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    scale = preprocessing.resize / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


_LONG = 100  # times as long as wide; no network looks at so much of a strip


def _middle(image: Image.Image) -> Image.Image:
    """Of a strip only what could be seen: one pixel wide, it would be scaled to gigabytes, and most of it cut off."""
    cuts = _cuts(image.size)
    if not any(cuts):
        return image
    return image.crop((cuts[0], cuts[1], image.width - cuts[0], image.height - cuts[1]))


def _cuts(size: tuple[int, int]) -> tuple[int, int]:
    """Pixels that a strip loses at each end: an even number together, so that the middle stays where it was."""
    least = min(size)
    return max(0, size[0] - _LONG * least) // 2, max(0, size[1] - _LONG * least) // 2


def _start(there: int, wanted: int) -> int:
    """As torchvision's center_crop, which puts an odd pixel of black behind, and rounds a half to even."""
    return round((there - wanted) / 2) if there >= wanted else -((wanted - there) // 2)
