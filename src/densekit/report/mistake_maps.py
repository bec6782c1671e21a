"""Class activation maps beside the mistakes of a report: where the network saw evidence for its wrong answer."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from densekit.attribution.class_maps import class_maps
from densekit.config import Preprocessing
from densekit.data import Loader
from densekit.errors import BadData
from densekit.models import ImageClassifier
from densekit.report.pictures import Measured, Picture, from_pixels, picture_uri

PATIENCE = 20.0
"""Seconds that all maps of a report may take; mistakes after that have none."""
_AT_ONCE = 4 * 224 * 224  # pixels that go through the network together
_LEAST = 112  # pixels of a side of what is shown
_VEIL = (255, 122, 0)  # the page of `densekit serve` has the same
_DENSEST, _EDGE = 0.75, 0.5


def with_maps(
    model: nn.Module, device: torch.device, measured: Measured, mistakes: Sequence[Picture]
) -> tuple[list[Picture], str]:
    """The pictures with their maps, and which layer these are of; empty where there are none.

    Args:
        model: on `device`, in evaluation mode. An exported file, which has no gradients, gives no maps.
        device: of `model`.
        measured: the images, and how they are read.
        mistakes: `sample` and `predicted` say which map is drawn.
    """
    found, layer = list(mistakes), ""
    if not mistakes or not isinstance(model, ImageClassifier):
        return found, layer
    with suppress(BadData):  # files that have become unreadable since: no reason to have no page
        for index, picture, of in _drawn(model, device, measured, mistakes):
            found[index], layer = replace(found[index], map_uri=picture_uri(picture)), of
    return found, layer


def _drawn(
    model: ImageClassifier, device: torch.device, measured: Measured, mistakes: Sequence[Picture]
) -> Iterator[tuple[int, Image.Image, str]]:
    """(which mistake, its map over the image, layer)."""
    preprocessing = measured.preprocessing
    height, width = preprocessing.size
    loader = Loader(
        measured.images.subset(np.array([mistake.sample for mistake in mistakes], dtype=np.int64)),
        preprocessing,
        max(1, _AT_ONCE // (height * width)),
        device=device,
        max_pixels=measured.max_pixels,
    )
    wanted = torch.tensor([measured.classes.index(mistake.predicted) for mistake in mistakes])
    until = time.monotonic() + PATIENCE
    for batch in loader.epoch():
        if time.monotonic() > until:
            return
        if not len(batch.samples):
            continue
        made = class_maps(model, batch.images, wanted[batch.samples].to(device))
        if made is None:
            return
        layer, maps = made
        for index, image, values in zip(batch.samples.tolist(), batch.images.cpu(), maps.float().cpu(), strict=True):
            if values.isfinite().all():
                yield index, overlay(_pixels(image, preprocessing), values), layer


def _pixels(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(C, H, W), normalised -> uint8."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    return (image * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)


def overlay(pixels: Tensor, values: Tensor) -> Image.Image:
    """(C, H, W) uint8, (h, w) -> the image in grey under an orange veil, denser where more speaks for the class.

    A white line goes around where that is at least half of the most, for whoever does not see the colour. Where nothing
    speaks for the class the image is grey.
    """
    grey = np.asarray(from_pixels(pixels).convert("L"), dtype=np.float32)
    scale = -(-_LEAST // min(grey.shape)) if min(grey.shape) < _LEAST else 1
    grey = grey.repeat(scale, 0).repeat(scale, 1)
    share = F.interpolate(values[None, None].clamp(min=0), size=grey.shape, mode="bilinear")[0, 0].numpy()
    share = share / max(share.max(), np.finfo(np.float32).tiny)
    veil = (_DENSEST * share)[..., None]
    mixed = grey[..., None] * (1 - veil) + np.array(_VEIL, dtype=np.float32) * veil
    mixed[_outline(share >= _EDGE)] = 255
    return Image.fromarray(mixed.round().astype(np.uint8))


def _outline(inside: np.ndarray) -> np.ndarray:
    """Where a pixel is inside and one of its four neighbours is not."""
    padded = np.pad(inside, 1, mode="edge")
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    found: np.ndarray = inside & ~around
    return found
