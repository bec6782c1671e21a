"""How large the pictures of a data set are, before anything scales them."""

from dataclasses import dataclass

import numpy as np

from densekit.data.decoding.decode import header_of
from densekit.data.sets import ArrayImages, Images
from densekit.errors import BadImage

_MOST = 400  # headers: the median of so many is within a few per cent, and reading them takes about a second


@dataclass(frozen=True)
class NativeSize:
    """Of a sample of images, evenly spread over a split."""

    low: int
    median: int
    high: int
    """The 10, 50 and 90 % quantiles of the shorter sides, in pixels."""
    colour: bool
    """Whether any of them has colours."""


def native_size(images: Images, *, max_pixels: int) -> NativeSize | None:
    """By headers alone; files that cannot be read are left out. None where none can be read."""
    if isinstance(images, ArrayImages):
        channels, height, width = images.pixels.shape[-3:]
        shorter = min(height, width)
        return NativeSize(shorter, shorter, shorter, channels >= 3)
    sides, colour = [], False
    for sample in np.unique(np.linspace(0, len(images) - 1, _MOST).round().astype(int)).tolist():
        try:
            width, height, has_colours = header_of(images.encoded(sample), max_pixels=max_pixels)
        except BadImage:
            continue
        sides.append(min(width, height))
        colour = colour or has_colours
    if not sides:
        return None
    low, median, high = np.quantile(sides, (0.1, 0.5, 0.9)).tolist()
    return NativeSize(round(low), round(median), round(high), colour)
