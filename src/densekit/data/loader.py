"""Images -> batches. Files are decoded and cropped one by one, in workers; everything else is done on whole batches."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from densekit.config import AugmentConfig, Preprocessing
from densekit.data import augment
from densekit.data.auto_augment import policy_for
from densekit.data.decoding.decode import MAX_PIXELS
from densekit.data.resize_crop import framed, resized
from densekit.data.sampling import balanced_order
from densekit.data.sets import ArrayImages, EncodedImages, Images
from densekit.data.worker_processes import started, worker_lost
from densekit.errors import BadImage

_CPU = torch.device("cpu")
_CACHED = 1 << 18
"""Numbers that are worked on at once: a megabyte stays in a core's cache from one operation to the next."""
_NONE = torch.empty(0, dtype=torch.float32)
_Raw = tuple[Tensor, Tensor, list[tuple[Path, BadImage]]]


@dataclass(frozen=True)
class Batch:
    """A batch on its device."""

    images: Tensor
    """(N, C, H, W), float32, normalised."""
    targets: Tensor
    """The images' labels, as `sets.ArrayImages` describes them."""
    samples: Tensor
    """(N,), int64: positions in the split; on the CPU."""
    total: int
    """Samples of the whole batch, of which these may be one process's share; bad ones are still counted."""
    failures: tuple[tuple[Path, BadImage], ...] = ()
    """Files of this batch that could not be read."""


@dataclass(frozen=True)
class Loader:
    """Batches of one split. With `augmentation` shuffled anew each epoch; without, in order and unchanged."""

    images: Images
    preprocessing: Preprocessing
    batch_size: int
    augmentation: AugmentConfig | None = None
    seed: int = 0
    device: torch.device = _CPU
    workers: int = 0
    max_pixels: int = MAX_PIXELS
    ten_crop: bool = False
    """Not of arrays: (N, 10, C, H, W), four corners and the middle of the resized image, and their mirrors."""
    rank: int = 0
    size: int = 1
    """Processes that divide the work: each batch of a shuffled split, or the batches of one in order."""
    join_last_image: bool = False
    """A last batch of one image joins the batch before it."""
    shuffle_by_seed: bool = False
    """Shuffled by seed and epoch, not by the epoch alone."""
    balanced: bool = False
    """Equally many images of each class in an epoch, by seed and epoch; some more than once, others not at all."""

    def __len__(self) -> int:
        """Batches an epoch; the last may be partial, and is kept."""
        joined = self.join_last_image and leaves_one(len(self.images), self.batch_size)
        return math.ceil(len(self.images) / self.batch_size) - joined

    def epoch(self, epoch: int = 0, skip: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch from number `skip` on, this process's share of each.

        A shuffled batch with fewer samples than there are processes goes to each of them whole. Where files are bad
        a batch has fewer images, or none.
        """
        batches = self._batches(epoch)[skip:]
        if self.augmentation is None:
            # Whole batches, so that an image has the same company, and with it the same bits, on any number.
            batches = batches[self.rank :: self.size]
        shares = [self._share(batch) for batch in batches]
        raw = (self._arrays if isinstance(self.images, ArrayImages) else self._files)(shares, epoch)
        with closing(raw):
            for (pixels, draws, failures), batch in zip(raw, batches, strict=True):
                yield self._finish(pixels, draws, epoch, len(batch), tuple(failures))

    @contextmanager
    def reading(self, epoch: int = 0, skip: int = 0) -> Iterator[Iterator[Batch]]:
        """The batches of `epoch`. The decoding processes end with the block.

        Raises WorkerLost if a decoding process dies: torch may raise that anywhere inside the block.
        """
        batches = self.epoch(epoch, skip)
        try:
            with closing(batches):
                yield batches
        except RuntimeError as error:
            if self.workers and (lost := worker_lost(error)) is not None:
                raise lost from error
            raise

    def _batches(self, epoch: int) -> list[Tensor]:
        batches = list(torch.split(self._order(epoch), self.batch_size))
        if len(batches) > len(self):
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _share(self, batch: Tensor) -> Tensor:
        return batch if self.augmentation is None or len(batch) < self.size else batch[self.rank :: self.size]

    def _order(self, epoch: int) -> Tensor:
        """(N,) draws: positions in the split, plus N for each time that a balanced epoch repeats one."""
        if self.augmentation is None:
            return torch.arange(len(self.images))
        # Mixed into 32 bits: torch's generator for the CPU takes no more, and drops what stands above them.
        mixed = int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(mixed if self.shuffle_by_seed or self.balanced else epoch)
        if self.balanced:
            return balanced_order(self.images.labels, generator)
        return torch.randperm(len(self.images), generator=generator)

    def _arrays(self, batches: list[Tensor], epoch: int) -> Generator[_Raw, None, None]:
        assert isinstance(self.images, ArrayImages)
        policy = policy_for(self.augmentation) if self.augmentation is not None else None
        for draws in batches:
            pixels = self.images.pixels[draws % len(self.images)]
            if policy is not None:
                changed = (policy(x, self.seed, epoch, i) for x, i in zip(pixels, draws.tolist(), strict=True))
                pixels = torch.stack(list(changed))
            yield pixels, draws, []

    def _files(self, batches: list[Tensor], epoch: int) -> Generator[_Raw, None, None]:
        assert isinstance(self.images, EncodedImages)
        decoder = _Decoder(
            self.images,
            self.preprocessing,
            self.augmentation,
            self.seed,
            epoch,
            self.max_pixels,
            cut=ten_crops_of if self.ten_crop else pixels_of,
        )
        loader = DataLoader(
            decoder,
            # Lists when they are needed: a million positions as Python's integers are 40 MB.
            batch_sampler=_Lists(batches),
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
        )
        try:
            for pixels, draws, failures in started(loader):
                yield pixels, torch.tensor(draws, dtype=torch.int64), failures
        except (Exception, KeyboardInterrupt) as error:
            # The frames of its traceback hold the iterator, and with it the decoding processes.
            raise error.with_traceback(None) from None

    def _finish(
        self, pixels: Tensor, draws: Tensor, epoch: int, total: int, failures: tuple[tuple[Path, BadImage], ...]
    ) -> Batch:
        samples = draws % len(self.images)
        if not len(samples):
            empty = torch.empty(0, self.preprocessing.channels, *self.preprocessing.size, device=self.device)
            return Batch(empty, self.images.labels[samples].to(self.device), samples, total, failures)
        pixels = pixels.to(self.device, non_blocking=True)
        u = None if self._of_batches is None else augment.draws(self.seed, epoch, draws).to(self.device)
        at_once = max(1, _CACHED * len(pixels) // pixels.numel()) if self.device.type == "cpu" else len(pixels)
        x = self._input(pixels, u) if len(pixels) <= at_once else self._inputs(pixels, u, at_once)
        targets = self.images.labels[samples].to(self.device, non_blocking=True)
        return Batch(x, targets, samples, total, failures)

    @cached_property
    def _of_batches(self) -> AugmentConfig | None:
        """What of the augmentation is left to do when a batch is together, if anything."""
        config = self.augmentation
        if config is not None and isinstance(self.images, EncodedImages) and config.crop == "resized":
            config = config.model_copy(update={"crop": "none", "flip": False})  # workers did
        return config if config is not None and augment.changes(config) else None

    def _inputs(self, pixels: Tensor, u: Tensor | None, at_once: int) -> Tensor:
        """As `_input`, a few images after the other."""
        threads = torch.get_num_threads()
        if self.workers:  # which have the cores: threads that wait for each other at every operation would crawl
            torch.set_num_threads(1)
        try:
            one = pixels.shape[1:] if self.ten_crop else (self.preprocessing.channels, *self.preprocessing.size)
            # NumPy asks for huge pages: the first touch of 9,000 small ones takes as long as the arithmetic.
            x = torch.from_numpy(np.empty((len(pixels), *one), np.float32))
            for first in range(0, len(pixels), at_once):
                some = slice(first, first + at_once)
                if u is None:
                    self._input(pixels[some], None, out=x[some])
                else:
                    x[some] = self._input(pixels[some], u[some])
            return x
        finally:
            torch.set_num_threads(threads)

    def _input(self, pixels: Tensor, u: Tensor | None, out: Tensor | None = None) -> Tensor:
        """(N, C, h, w) uint8 -> (N, channels, H, W), augmented and normalised; to `out` only without `u`."""
        x = pixels.float().div_(255)
        config = self._of_batches
        if config is None or u is None:
            return normalise(x if self.ten_crop else fit(x, self.preprocessing), self.preprocessing, out)
        if config.crop == "resized":
            x = augment.resized_crop(x, u, config.crop_scale)
        x = augment.colour(x, u, config)
        return augment.geometry(normalise(fit(x, self.preprocessing), self.preprocessing), u, config)


def leaves_one(images: int, batch_size: int) -> bool:
    """Whether the last of several batches has one image."""
    return images > batch_size > 1 and images % batch_size == 1


def fit(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, C, h, w) -> (N, channels, H, W): arrays of another size or channel count than the network's."""
    if x.shape[1] == 1 and preprocessing.channels == 3:
        x = x.expand(-1, 3, -1, -1)
    elif x.shape[1] == 3 and preprocessing.channels == 1:
        x = vision.rgb_to_grayscale(x)
    if x.shape[-2:] == preprocessing.size:
        return x
    height, width = x.shape[-2:]
    scale = preprocessing.resize / min(height, width)
    size = [round(height * scale), round(width * scale)]
    x = vision.resize(x, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return vision.center_crop(x, list(preprocessing.size))


def normalise(x: Tensor, preprocessing: Preprocessing, out: Tensor | None = None) -> Tensor:
    """(x - mean) / std, per channel."""
    mean = x.new_tensor(preprocessing.mean)[:, None, None]
    std = x.new_tensor(preprocessing.std)[:, None, None]
    return torch.sub(x, mean, out=out).div_(std)


def pixels_of(image: Any, preprocessing: Preprocessing) -> Tensor:
    """A decoded image -> (C, H, W) uint8 at the network's size: shorter side to `resize`, then the middle."""
    return vision.pil_to_tensor(framed(image, preprocessing))


def ten_crops_of(image: Any, preprocessing: Preprocessing) -> Tensor:
    """A decoded image -> (10, C, H, W) uint8: shorter side to `resize`, then corners, middle and mirrors."""
    crops = vision.ten_crop(resized(image, preprocessing), list(preprocessing.size))
    return torch.stack([vision.pil_to_tensor(crop) for crop in crops])


class _Lists:
    """Tensors of positions as lists, each when it is asked for."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)


class _Decoder(Dataset[Any]):
    """Draw -> pixels (C, H, W) of the sample, or the reason why not."""

    def __init__(
        self,
        images: EncodedImages,
        preprocessing: Preprocessing,
        augmentation: AugmentConfig | None,
        seed: int,
        epoch: int,
        max_pixels: int,
        cut: Callable[[Any, Preprocessing], Tensor],
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = epoch
        self.max_pixels = max_pixels
        self.cut = cut
        self.policy = policy_for(augmentation) if augmentation is not None else None

    def __getitem__(self, draw: int) -> tuple[int, Tensor | tuple[Path, BadImage]]:
        crop, sample = None, draw % len(self.images)
        if self.augmentation is not None and self.augmentation.crop == "resized":
            crop = _RandomCrop(augment.draws(self.seed, self.epoch, torch.tensor([draw]))[0], self.augmentation)
        plain = self.preprocessing
        try:
            image = self.images.decoded(
                sample,
                channels=plain.channels,
                max_pixels=self.max_pixels,
                window=plain.window,
                part=None if crop is None else crop.box,
            ).image
        except BadImage as error:
            return draw, (self.images.path(sample), error)
        pixels = self.cut(image, plain) if crop is None else crop.finish(image, plain.size)
        return draw, pixels if self.policy is None else self.policy(pixels, self.seed, self.epoch, draw)


class _RandomCrop(NamedTuple):
    """A part of a photograph, scaled, and mirrored here too, where it is bytes that move."""

    u: Tensor
    config: AugmentConfig

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        top, left, h, w = augment.resized_crop_box(height, width, self.u, self.config.crop_scale)
        return left, top, left + w, top + h

    def finish(self, image: Any, size: tuple[int, int]) -> Tensor:
        """That part -> (C, *size) uint8."""
        # Torch scales bytes in two thirds of Pillow's time, to the same values but for rounding.
        pixels = vision.resize(vision.pil_to_tensor(image), list(size), antialias=True)
        return pixels.flip(-1) if self.config.flip and self.u[augment.FLIP] < 0.5 else pixels


def _collate(
    rows: list[tuple[int, Tensor | tuple[Path, BadImage]]],
) -> tuple[Tensor, list[int], list[tuple[Path, BadImage]]]:
    good = [(draw, pixels) for draw, pixels in rows if isinstance(pixels, Tensor)]
    bad = [failure for _, failure in rows if not isinstance(failure, Tensor)]
    # In a worker, this stacks in memory that the training process sees. All else goes through a pipe: a tensor would be
    # shared by a thread of the worker's, and where that finds no memory the batch is lost without an error.
    pixels = default_collate([pixels for _, pixels in good]) if good else _NONE
    return pixels, [draw for draw, _ in good], bad
