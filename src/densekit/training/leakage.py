"""Initial weights that were trained on the images of the new run: what is measured on those would be too good."""

import numpy as np

from densekit.data import DataSet, Images
from densekit.data.known_images import known_images
from densekit.data.sets import QUICKLY_READ, EncodedImages
from densekit.data.sources.registry import is_in_memory
from densekit.formatting import counted
from densekit.weights import image_hashes, model_folder, read_card

_SAMPLE = 400  # images: enough to find a data set that the weights know a hundredth of


def trained_on(model: str, images: Images) -> bool:
    """Whether the model's training images include any of a sample of `images`; False where its folder has no hashes."""
    sample = np.unique(np.linspace(0, len(images) - 1, _SAMPLE).round().astype(int))
    return _trained_on_count(model, images.subset(sample)) > 0


def leak(init: str, data: DataSet) -> str | None:
    """For people: how many of the held-out images the model `init` was trained on; None for none.

    The test images, else those for validation. Not looked at where they take long to read.
    """
    split = next((name for name in ("test", "val") if name in data.splits), None)
    if split is None or init.partition(":")[0] in ("torchvision", "timm"):
        return None
    images = data.splits[split]
    if isinstance(images, EncodedImages) and images.stored_bytes() > QUICKLY_READ:
        return None
    count = _trained_on_count(init, images)
    if not count:
        return None
    return (
        f"{init} was trained on {count:,} of the {counted(len(images), f'{split} image')}, so its result will be "
        "too good; start from other weights, or from none with --init none"
    )


def _trained_on_count(model: str, images: Images) -> int:
    """How many of the images the model was trained on, as far as its folder has hashes."""
    folder = model_folder(model)
    hashes = image_hashes.read(folder)
    if hashes is None:
        return 0
    data = read_card(folder).data
    in_memory = data is not None and is_in_memory(data.source)
    return int(known_images(images, hashes["train"], in_memory=in_memory).sum())
