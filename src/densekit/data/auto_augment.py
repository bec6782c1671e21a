"""TrivialAugment and RandAugment, torchvision's, with random numbers by address: (seed, epoch, sample)."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from densekit.config import AugmentConfig

_STREAM = 1  # apart from the draws of `augment`


def policy_for(config: AugmentConfig) -> Callable[[Tensor, int, int, int], Tensor] | None:
    """(C, H, W) uint8, seed, epoch, sample -> as many pixels, changed; None where the recipe has no policy.

    What moves out of the image is filled with black.
    """
    if config.policy == "none":
        return None
    return partial(_apply, _POLICIES[config.policy](config))


def _apply(transform: v2.Transform, pixels: Tensor, seed: int, epoch: int, sample: int) -> Tensor:
    # torchvision draws from torch's own generator, which is left as it was found.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_word(seed, epoch, sample, _STREAM))
        changed: Tensor = transform(pixels)
    return changed


def _word(*address: int) -> int:
    return int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _trivial(_: AugmentConfig) -> v2.Transform:
    return v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)


def _rand(config: AugmentConfig) -> v2.Transform:
    return v2.RandAugment(config.rand_operations, config.rand_magnitude, interpolation=v2.InterpolationMode.BILINEAR)


_POLICIES: dict[str, Callable[[AugmentConfig], v2.Transform]] = {"trivial": _trivial, "rand": _rand}
