"""Random changes of whole batches, keyed by (seed, epoch, sample): workers, batch size and order change nothing."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.config import AugmentConfig

# Columns of the random numbers of a sample. Appending one keeps the others, and so old runs, as they are.
FLIP, TOP, LEFT, AREA, ASPECT, BRIGHTNESS, CONTRAST, SATURATION, ORDER = range(9)
LIGHT, ERASE, ERASE_AREA, ERASE_ASPECT, ERASE_TOP, ERASE_LEFT, DRAWS = 9, 12, 13, 14, 15, 16, 17

# Principal components of ImageNet's RGB values in [0, 1], as published with the authors' Torch recipe.
_EIGENVALUES = (0.2175, 0.0188, 0.0045)
_EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_LUMA = (0.299, 0.587, 0.114)


def draws(seed: int, epoch: int, samples: Tensor) -> Tensor:
    """(N,) sample numbers -> (N, DRAWS) uniform in [0, 1), from the counter-based Philox generator."""
    key = np.array([seed, epoch], dtype=np.uint64)
    rows = []
    for sample in samples.tolist():
        # The sample is the counter's highest word: streams of two samples can never meet.
        generator = np.random.Philox(key=key, counter=np.array([0, 0, 0, sample], dtype=np.uint64))
        rows.append(np.random.Generator(generator).random(DRAWS, dtype=np.float32))
    return torch.from_numpy(np.stack(rows))


def changes(config: AugmentConfig) -> bool:
    """Whether anything below depends on a sample's numbers."""
    return config.flip or config.crop != "none" or bool(config.color_jitter or config.lighting or config.erase)


def colour(x: Tensor, u: Tensor, config: AugmentConfig) -> Tensor:
    """Jitter and lighting on (N, C, H, W) in [0, 1], before normalisation. Grey images keep one colour."""
    if config.color_jitter:
        x = _jitter(x, u, config.color_jitter)
    if config.lighting and x.shape[1] == 3:
        normal = torch.erfinv(2 * u[:, LIGHT : LIGHT + 3].clamp(1e-6, 1 - 1e-6) - 1) * math.sqrt(2)
        weights = normal * config.lighting * x.new_tensor(_EIGENVALUES)
        x = x + (weights @ x.new_tensor(_EIGENVECTORS).T)[:, :, None, None]
    return x


def geometry(x: Tensor, u: Tensor, config: AugmentConfig) -> Tensor:
    """Crop, flip and erase normalised (N, C, H, W): what is filled in is 0, the mean colour."""
    if config.crop == "pad":
        x = _pad_and_crop(x, u, config.crop_padding)
    if config.flip:
        x = _flipped(x, u[:, FLIP] < 0.5)
    if config.erase:
        x = _erase(x, u, config.erase)
    return x


def resized_crop_box(height: int, width: int, u: Tensor, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """(top, left, height, width) with a random share of the area and an aspect between 3/4 and 4/3."""
    area = height * width * (scale[0] + (scale[1] - scale[0]) * float(u[AREA]))
    aspect = math.exp((2 * float(u[ASPECT]) - 1) * math.log(4 / 3))
    crop_width = min(width, max(1, round(math.sqrt(area * aspect))))
    crop_height = min(height, max(1, round(math.sqrt(area / aspect))))
    top = int(float(u[TOP]) * (height - crop_height + 1))
    left = int(float(u[LEFT]) * (width - crop_width + 1))
    return top, left, crop_height, crop_width


def resized_crop(x: Tensor, u: Tensor, scale: tuple[float, float]) -> Tensor:
    """Each of (N, C, H, W) cropped at random and scaled back to H x W."""
    height, width = x.shape[-2:]
    crops = []
    for image, row in zip(x, u, strict=True):
        top, left, h, w = resized_crop_box(height, width, row, scale)
        crop = image[None, :, top : top + h, left : left + w]
        crops.append(F.interpolate(crop, size=(height, width), mode="bilinear", antialias=True))
    return torch.cat(crops)


def _flipped(x: Tensor, which: Tensor) -> Tensor:
    if len(x) == 1 and x.device.type == "cpu":  # as large images come; half of them need no copy
        return x.flip(-1) if which.item() else x
    return torch.where(which[:, None, None, None], x.flip(-1), x)


def _pad_and_crop(x: Tensor, u: Tensor, padding: int) -> Tensor:
    N, _, H, W = x.shape
    padded = F.pad(x, (padding,) * 4)
    offsets = 2 * padding + 1
    top = (u[:, TOP] * offsets).long()
    left = (u[:, LEFT] * offsets).long()
    rows = (top[:, None] + torch.arange(H, device=x.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(W, device=x.device))[:, None, None, :]
    images = torch.arange(N, device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[images, channels, rows, columns]


def _erase(x: Tensor, u: Tensor, probability: float) -> Tensor:
    """Zhong et al. 2020: area 2 to 33 %, aspect 0.3 to 3.3."""
    _, _, H, W = x.shape
    area = H * W * (0.02 + 0.31 * u[:, ERASE_AREA])
    aspect = torch.exp((2 * u[:, ERASE_ASPECT] - 1) * math.log(3.3))
    height = (area * aspect).sqrt().round().clamp(1, H)
    width = (area / aspect).sqrt().round().clamp(1, W)
    top = (u[:, ERASE_TOP] * (H - height + 1)).floor()
    left = (u[:, ERASE_LEFT] * (W - width + 1)).floor()
    rows = torch.arange(H, device=x.device)[None, :]
    columns = torch.arange(W, device=x.device)[None, :]
    inside = ((rows >= top[:, None]) & (rows < (top + height)[:, None]))[:, :, None] & (
        (columns >= left[:, None]) & (columns < (left + width)[:, None])
    )[:, None, :]
    inside &= (u[:, ERASE] < probability)[:, None, None]
    return x.masked_fill(inside[:, None], 0.0)


def _jitter(x: Tensor, u: Tensor, strength: float) -> Tensor:
    luma = x.new_tensor(_LUMA)[:, None, None]

    def grey(x: Tensor) -> Tensor:
        return (x * luma).sum(1, keepdim=True) if x.shape[1] == 3 else x

    def factor(column: int) -> Tensor:
        return (1 + strength * (2 * u[:, column] - 1))[:, None, None, None]

    operations = (
        lambda x: x * factor(BRIGHTNESS),
        lambda x: torch.lerp(grey(x).mean((1, 2, 3), keepdim=True), x, factor(CONTRAST)),
        lambda x: torch.lerp(grey(x), x, factor(SATURATION)),
    )
    orders = torch.tensor([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], device=x.device)
    order = orders[(u[:, ORDER] * 6).long()]
    for position in range(3):
        results = torch.stack([operation(x) for operation in operations])
        x = results[order[:, position], torch.arange(len(x), device=x.device)]
    return x.clamp(0, 1)
