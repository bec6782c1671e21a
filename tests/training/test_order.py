"""The order of training images is decided by seed and epoch."""

from pathlib import Path

import pytest
import torch

from densekit.config import AugmentConfig, Preprocessing
from densekit.data import Loader
from densekit.data.sets import ArrayImages
from densekit.errors import InvalidInput
from densekit.training.compose import compose
from densekit.training.setup import prepare

IMAGES = ArrayImages(torch.zeros(50, 1, 1, 1, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64))
PLAIN = Preprocessing(channels=1, size=(1, 1), resize=1, mean=(0,), std=(1,))


def order(seed: int, epoch: int, *, by_seed: bool = True) -> tuple[int, ...]:
    loader = Loader(IMAGES, PLAIN, 8, AugmentConfig(), seed=seed, shuffle_by_seed=by_seed)
    return tuple(torch.cat([batch.samples for batch in loader.epoch(epoch)]).tolist())


def test_every_seed_and_epoch_has_an_order_of_its_own() -> None:
    """Torch's generator for the CPU takes 32 bits of a seed, and silently drops the others."""
    orders = {order(seed, epoch) for seed in (1, 2, 7, 2**31, 2**32 - 1) for epoch in range(3)}
    orders |= {order(0, epoch, by_seed=False) for epoch in range(3)}
    assert len(orders) == 18
    assert all(sorted(each) == list(range(50)) for each in orders)


def test_runs_of_older_versions_keep_their_order() -> None:
    expected = torch.randperm(50, generator=torch.Generator().manual_seed(2)).tolist()
    assert list(order(0, 2, by_seed=False)) == list(order(5, 2, by_seed=False)) == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_training_says_in_its_recipe_how_it_shuffles(seed: int, tmp_path: Path) -> None:
    """Seed 0 stays as it always was; a run that goes on stays as it began."""
    recipe = compose("synthetic:8x8x1:2:40", model="densenet_bc_10_4", seed=seed)
    assert prepare(recipe, tmp_path).recipe.shuffle_by_seed == bool(seed)
    assert not prepare(recipe, tmp_path, start=False).recipe.shuffle_by_seed


@pytest.mark.parametrize("seed", [2**32, 2**64])
def test_a_seed_beyond_32_bits_is_refused(seed: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="seed="):
        prepare(compose("synthetic:8x8x1:2:40", model="densenet_bc_10_4", seed=seed), tmp_path)
