"""A decoded image -> the frame of it that a network sees. Pillow alone, so that it needs no torch."""

from PIL import Image

from densekit.config import Preprocessing


def framed(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The shorter side scaled to `resize`, then the middle cut out; black around it where there is too little."""
    image = resized(_middle(image), preprocessing)
    height, width = preprocessing.size
    left, top = _start(image.width, width), _start(image.height, height)
    return image.crop((left, top, left + width, top + height))


def resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The shorter side scaled to `resize` pixels."""
    scale = preprocessing.resize / min(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


_LONG = 100  # times as long as wide; no network looks at so much of a strip


def _middle(image: Image.Image) -> Image.Image:
    """Of a strip only what could be seen: one pixel wide, it would be scaled to gigabytes, and most of it cut off."""
    least = min(image.size)
    # An even number of pixels less, so that the middle stays where it was.
    cuts = [max(0, side - _LONG * least) // 2 for side in image.size]
    if not any(cuts):
        return image
    return image.crop((cuts[0], cuts[1], image.width - cuts[0], image.height - cuts[1]))


def _start(there: int, wanted: int) -> int:
    """As torchvision's center_crop, which puts an odd pixel of black behind, and rounds a half to even."""
    return round((there - wanted) / 2) if there >= wanted else -((wanted - there) // 2)
