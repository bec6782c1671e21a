"""What pages are made of: pictures that stand inside the page, with what there is to say of each, and templates."""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jinja2
from PIL import Image
from torch import Tensor

from densekit.config import Preprocessing
from densekit.data.decoding.dicom import Window
from densekit.data.sets import ArrayImages, Images
from densekit.errors import BadImage

MOST = 16
"""Pictures of one kind that a page shows."""
SMALL = 64
"""Pixels; smaller pictures are shown as squares of colour, not blurred."""
_LARGEST = 224  # pixels; enough for a sharp thumbnail on a dense screen, and light


@dataclass(frozen=True)
class Picture:
    """An image with what there is to say about it."""

    uri: str | None
    """data:...; none if it could not be read."""
    small: bool
    true: str
    name: str = ""
    """File name, or position in the split."""
    predicted: str = ""
    confidence: float = 0.0
    sample: int = -1
    """Position in the split."""
    map_uri: str | None = None
    """The class activation map of `predicted` over what the network sees; none where there is none."""


@dataclass(frozen=True)
class Measured:
    """The images that a result is about, and how they are read."""

    images: Images
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    max_pixels: int
    thresholds: tuple[float, ...] = ()
    """Of a multi-label model, the probability from which on an image is taken to be of each class."""
    thresholds_chosen: bool = False
    """Whether validation images chose them."""
    chose_thresholds: bool = False
    """Whether these images did."""
    rule: str | None = None
    """By which rule; none where the model does not say."""


def mistakes(measured: Measured, answers: Iterable[tuple[int, str, str, float]]) -> Iterator[Picture]:
    """Pictures of samples, with what each is, what was predicted, and how sure that was."""
    images = measured.images
    channels, window = measured.preprocessing.channels, measured.preprocessing.window
    for sample, true, predicted, confidence in answers:
        picture = image_of(images, sample, channels, measured.max_pixels, window)
        yield Picture(
            uri=None if picture is None else picture_uri(picture),
            small=picture is not None and max(picture.size) <= SMALL,
            true=true,
            name=images.name(sample).rsplit("/", 1)[-1],  # its folder is its class
            predicted=predicted,
            confidence=confidence,
            sample=sample,
        )


def image_of(
    images: Images, sample: int, channels: int, max_pixels: int, window: Window | None = None
) -> Image.Image | None:
    """The image as people see it, whole; none for a file that has become unreadable since."""
    if isinstance(images, ArrayImages):
        return from_pixels(images.pixels[sample])
    shown = 1 if channels == 1 else 3
    try:
        return images.decoded(sample, channels=shown, max_pixels=max_pixels, window=window).image
    except BadImage:
        return None


def from_pixels(pixels: Tensor) -> Image.Image:
    """(C, H, W) uint8; of many channels the first three, of two the first."""
    if len(pixels) < 3:
        return Image.fromarray(pixels[0].numpy())
    return Image.fromarray(pixels[:3].permute(1, 2, 0).contiguous().numpy())


def picture_uri(image: Image.Image, largest: int = _LARGEST) -> str:
    """As data:..., scaled down to `largest` pixels."""
    if max(image.size) > largest:
        image = image.copy()
        image.thumbnail((largest, largest))
    kind, options = ("png", {}) if max(image.size) <= SMALL else ("jpeg", {"quality": 85})
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return uri(kind, buffer.getvalue())


def uri(kind: str, content: bytes) -> str:
    """An image of a media type as data:..."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def template(name: str) -> jinja2.Template:
    """One of the pages in this package."""
    # Class names and paths come from anywhere: everything is escaped, and a name that is missing is an error.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("densekit.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}%"
    environment.filters["commas"] = lambda count: f"{count:,}"
    return environment.get_template(name)
