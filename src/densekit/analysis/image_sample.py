"""The images that an analysis looks at, and the untrained network it compares with."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densekit.config import Preprocessing
from densekit.data import Images, Loader
from densekit.data.sets import SkipList
from densekit.errors import BadData
from densekit.models import ImageClassifier, build
from densekit.weights import ModelCard

CHUNK = 64  # images that go through a network at once
_CALIBRATION = 256  # images for running statistics


@dataclass(frozen=True)
class Sample:
    """Some images of a split, preprocessed as the network wants them."""

    images: Tensor
    """(N, C, H, W), normalised."""
    targets: Tensor
    """(N,), int64; of several labels (N, classes), float32: 1, 0, or NaN where not known."""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.targets.dim() == 2

    def first(self, count: int) -> "Sample":
        """At most so many of them."""
        return Sample(self.images[:count], self.targets[:count])

    def halves(self) -> tuple["Sample", "Sample"]:
        """Every other image, and the rest."""
        return Sample(self.images[::2], self.targets[::2]), Sample(self.images[1::2], self.targets[1::2])

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, targets), up to `CHUNK` at once."""
        for start in range(0, len(self), CHUNK):
            yield self.images[start : start + CHUNK], self.targets[start : start + CHUNK]


def draw(images: Images, preprocessing: Preprocessing, count: int, device: torch.device, max_pixels: int) -> Sample:
    """`count` images of a split, or all if there are fewer: the same ones each time. Raises BadData.

    Of several labels without the images of which none is known.
    """
    chosen = _chosen(len(images), count)
    loader = Loader(images.subset(chosen), preprocessing, CHUNK, device=device, max_pixels=max_pixels)
    skipped = SkipList(len(chosen) // 10)
    parts = []
    for batch in loader.epoch():
        skipped.add_all(batch.failures)
        if len(batch.samples):
            parts.append((batch.images, batch.targets))
    if not parts:
        raise BadData("none of the images to analyse can be read; mend them, or choose another split with --split")
    pixels, targets = (torch.cat(column) for column in zip(*parts, strict=True))
    if targets.dim() == 2:
        told = ~targets.isnan().all(1)
        if not told.any():
            raise BadData("no label of the images to analyse is known; choose another split with --split")
        pixels, targets = pixels[told], targets[told]
    return Sample(pixels.contiguous(memory_format=torch.channels_last), targets)


def _chosen(available: int, count: int) -> NDArray[np.int64]:
    if count >= available:
        return np.arange(available)
    return np.sort(np.random.default_rng(0).permutation(available)[:count])


def untrained(card: ModelCard, sample: Sample | None, seed: int | None = None) -> ImageClassifier:
    """The same architecture as it was before training: with the run's seed (0 where nobody knows) its very weights.

    Its running statistics are those of `sample`: with torch's own, zeros and ones, no layer would be normalised.
    """
    if seed is None:
        seed = int(card.provenance.get("seed") or 0)
    devices = [] if sample is None or sample.images.device.type == "cpu" else [sample.images.device]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model = build(card.model)
    if sample is not None:
        calibrate(model.to(sample.images.device), sample)
    return model.eval()


@torch.no_grad()
def calibrate(model: nn.Module, sample: Sample) -> None:
    """Sets the running statistics of all batch norms to their average over (the first images of) the sample."""
    sample = sample.first(_CALIBRATION)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()  # without dropout
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
        norm.train()
    for images, _ in sample.chunks():
        if len(images) > 1 or len(sample) == 1:  # torch refuses statistics of one value
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
