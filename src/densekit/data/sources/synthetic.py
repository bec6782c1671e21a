"""synthetic:HxWxC:CLASSES[:COUNT]: made-up images, for benchmarks and for trying out a pipeline."""

import re

import numpy as np
import torch

from densekit.data.sets import ArrayImages, DataSet
from densekit.errors import InvalidInput

_SYNTHETIC = re.compile(
    r"synthetic:(?P<height>\d+)x(?P<width>\d+)x(?P<channels>\d+):(?P<classes>\d+)(?::(?P<count>\d+))?"
)


def synthetic(source: str) -> DataSet:
    """Learnable made-up images: each class a fixed smooth pattern under noise; the same for every run.

    For benchmarks and trying out a pipeline; accuracy on it means nothing.
    """
    match = _SYNTHETIC.fullmatch(source)
    if not match:
        raise InvalidInput(f"'{source}' is not synthetic:HxWxC:CLASSES[:COUNT], such as synthetic:32x32x3:10:2000")
    height, width, channels, classes = (int(match[key]) for key in ("height", "width", "channels", "classes"))
    count = int(match["count"] or 100 * classes)
    if min(height, width, channels) < 1 or classes < 2 or count < 2 * classes:
        raise InvalidInput(f"'{source}' needs a size of 1 or more, 2 classes or more, and 2 images a class or more")
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((classes, channels, 4, 4), dtype=np.float32))
    patterns = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").numpy()
    labels = np.arange(count) % classes
    pixels = np.empty((count, channels, height, width), dtype=np.uint8)
    for i, label in enumerate(labels):  # image by image: float noise for all of them at once may not fit in memory
        noise = random.random((channels, height, width), dtype=np.float32)
        pixels[i] = 255 * (0.5 * patterns[label] + 0.5 * noise)
    images = ArrayImages(torch.from_numpy(pixels), torch.from_numpy(labels))
    return DataSet(source, tuple(f"class{i}" for i in range(classes)), {"train": images})
