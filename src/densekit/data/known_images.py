"""Which images are among known ones, by content: the bytes of a file, or the pixels of a small picture."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from densekit.data.decoding.decode import MAX_PIXELS, header_of
from densekit.data.sets import EncodedImages, Images, hashes
from densekit.errors import BadImage

_LARGEST = 64  # pixels of the longer side: data sets that are kept as arrays have small images, which decode in 50 us


def known_images(
    images: Images, known: NDArray[np.uint64], *, in_memory: bool, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]:
    """Which images have a hash among `known`, the `content_hashes` of other images.

    A data set in memory has hashes of pixels, one of files has hashes of bytes. So where the known ones were in memory,
    a small picture in a file is looked for by its pixels too: it may be one of CIFAR's, exported as PNG.

    Args:
        images: N images.
        known: (M,) hashes.
        in_memory: whether the known ones are of a data set in memory.
        max_pixels: the most that an image may have.

    Returns:
        (N,), whether each is known.
    """
    found = np.isin(images.content_hashes(), known)
    if in_memory and isinstance(images, EncodedImages):
        others = np.flatnonzero(~found)
        found[others] = np.isin(_pixel_hashes(images, others.tolist(), max_pixels), known)
    return found


def _pixel_hashes(images: EncodedImages, samples: Sequence[int], max_pixels: int) -> NDArray[np.uint64]:
    """(len(samples),), as `ArrayImages.content_hashes` has them; that of no bytes for one that is large or damaged."""
    return hashes(_pixels(images, sample, max_pixels) for sample in samples)


def _pixels(images: EncodedImages, sample: int, max_pixels: int) -> bytes:
    try:
        width, height, colour = header_of(images.encoded(sample), max_pixels=max_pixels)
        if max(width, height) > _LARGEST:
            return b""
        picture = np.asarray(images.decoded(sample, channels=3 if colour else 1, max_pixels=max_pixels).image)
    except BadImage:
        return b""
    return (picture.transpose(2, 0, 1) if picture.ndim == 3 else picture).tobytes()
