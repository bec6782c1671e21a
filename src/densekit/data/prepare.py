"""A data set and a recipe's data settings -> the preprocessing that its network keeps for life."""

import torch

from densekit.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig, Preprocessing
from densekit.data.loader import pixels_of
from densekit.data.sets import ArrayImages, DataSet, Images
from densekit.errors import BadImage, InvalidInput

# Enough for a mean to three digits; reading all of a large folder for it would take as long as an epoch.
_STATISTICS_FILES = 2_000
FOLDER_SIZE = (224, 224)
# Of 1 channel, the means of the three; of 4, alpha stays as it is.
_IMAGENET = {
    1: ((0.449,), (0.226,)),
    3: (IMAGENET_MEAN, IMAGENET_STD),
    4: ((*IMAGENET_MEAN, 0.0), (*IMAGENET_STD, 1.0)),
}


def resize_for(size: tuple[int, int]) -> int:
    """Pixels of a photograph's shorter side before the middle is cut out: 256 for 224, nothing to cut off tiny ones."""
    return round(min(size) * 256 / 224) if min(size) >= 96 else min(size)


def preprocessing_for(data: DataSet, config: DataConfig) -> Preprocessing:
    """Size, channels and statistics; measured on the training split where none are published."""
    train = data.splits["train"]
    if isinstance(train, ArrayImages):
        channels, height, width = train.pixels.shape[1:]
        size = config.image_size or (height, width)
        if config.channels not in (None, channels):
            raise InvalidInput(
                f"data.channels={config.channels}, but {data.name} has images of {channels}; leave it out"
            )
        resize = min(size)
    else:
        channels = config.channels or 3
        size = config.image_size or FOLDER_SIZE
        resize = resize_for(size)
    plain = Preprocessing(
        channels=channels,
        size=size,
        resize=resize,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        background=data.background,
        window=config.window,
    )
    if config.normalise == "unit":
        return plain
    if config.normalise == "imagenet":
        if channels not in _IMAGENET:
            raise InvalidInput(f"data.normalise=imagenet is for 1, 3 or 4 channels, and {data.name} has {channels}")
        mean, std = _IMAGENET[channels]
        return plain.model_copy(update={"mean": mean, "std": std})
    if data.mean is not None and data.std is not None:
        return plain.model_copy(update={"mean": data.mean, "std": data.std})
    mean, std = _statistics(train, plain, config.max_pixels)
    return plain.model_copy(update={"mean": mean, "std": std})


def _statistics(images: Images, plain: Preprocessing, max_pixels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and deviation, pixels in [0, 1]."""
    if isinstance(images, ArrayImages):
        # By histogram: exact, and without a float copy of all pixels.
        levels = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in range(plain.channels):
            counts = torch.bincount(images.pixels[:, channel].flatten().int(), minlength=256).double()
            mean = (counts * levels).sum() / counts.sum()
            means.append(mean.item())
            stds.append(((counts * (levels - mean) ** 2).sum() / counts.sum()).sqrt().item())
    else:
        stride = max(1, len(images) // _STATISTICS_FILES)
        first, second = (
            torch.zeros(plain.channels, dtype=torch.float64),
            torch.zeros(plain.channels, dtype=torch.float64),
        )
        seen = 0
        for sample in range(0, len(images), stride):
            try:
                image = images.decoded(
                    sample, channels=plain.channels, max_pixels=max_pixels, window=plain.window
                ).image
            except BadImage:
                continue  # the loader meets it again, and counts it
            x = pixels_of(image, plain).double() / 255
            first += x.mean((1, 2))
            second += (x * x).mean((1, 2))
            seen += 1
        mean_of = first / max(seen, 1)
        means = mean_of.tolist()
        stds = (second / max(seen, 1) - mean_of**2).clamp_min(0).sqrt().tolist()
    # A constant channel has no deviation to divide by.
    return tuple(round(m, 6) for m in means), tuple(round(s, 6) if s > 1e-6 else 1.0 for s in stds)
