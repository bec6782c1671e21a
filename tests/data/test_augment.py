"""Augmentation is keyed by (seed, epoch, sample) and does what it says."""

import os
import signal
from pathlib import Path

import pytest
import torch

from densekit.config import AugmentConfig, DataConfig, Preprocessing
from densekit.data import Loader, augment, load
from densekit.data.worker_processes import _prepare_worker

SAMPLES = torch.arange(400)


def test_a_sample_is_changed_alike_in_any_batch() -> None:
    together = augment.draws(7, 3, SAMPLES)
    assert torch.equal(augment.draws(7, 3, SAMPLES[[5, 2]]), together[[5, 2]])


def test_seed_epoch_and_sample_each_change_the_draws() -> None:
    here = augment.draws(1, 2, SAMPLES)
    for other in (augment.draws(2, 1, SAMPLES), augment.draws(1, 3, SAMPLES), augment.draws(1, 2, SAMPLES + 1)):
        assert not torch.isclose(here, other).all(1).any()
    assert abs(here.mean() - 0.5) < 0.02


def test_half_of_the_images_are_mirrored() -> None:
    x = torch.rand(400, 1, 4, 4)
    u = augment.draws(0, 0, SAMPLES)
    y = augment.geometry(x, u, AugmentConfig(flip=True))
    mirrored = (y == x.flip(-1)).all((1, 2, 3))
    assert torch.equal(mirrored, u[:, augment.FLIP] < 0.5)
    assert torch.equal(y[~mirrored], x[~mirrored])
    assert 150 < mirrored.sum() < 250


def test_a_padded_crop_shifts_and_fills_with_the_mean_colour() -> None:
    x = torch.ones(400, 1, 6, 6)
    y = augment.geometry(x, augment.draws(0, 0, SAMPLES), AugmentConfig(crop="pad", crop_padding=2))
    kept = y.sum((1, 2, 3))
    assert y.shape == x.shape
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert kept.min() == 16  # 4 x 4 pixels are left at a corner
    assert kept.max() == 36


def test_erasing_hits_the_asked_share() -> None:
    y = augment.geometry(torch.ones(400, 2, 8, 8), augment.draws(0, 0, SAMPLES), AugmentConfig(erase=0.3))
    assert 80 < (y == 0).any(1).any(1).any(1).sum() < 160


def test_no_jitter_is_the_identity_and_jitter_keeps_the_range() -> None:
    x = torch.rand(50, 3, 5, 5)
    u = augment.draws(0, 0, SAMPLES[:50])
    assert torch.equal(augment.colour(x, u, AugmentConfig()), x)
    jittered = augment.colour(x, u, AugmentConfig(color_jitter=0.4))
    assert not torch.equal(jittered, x)
    assert jittered.min() >= 0
    assert jittered.max() <= 1


@pytest.mark.parametrize("scale", [(0.08, 1.0), (1.0, 1.0)])
def test_resized_crops_stay_inside(scale: tuple[float, float]) -> None:
    for row in augment.draws(0, 0, SAMPLES):
        top, left, height, width = augment.resized_crop_box(30, 50, row, scale)
        assert top >= 0
        assert top + height <= 30
        assert left >= 0
        assert left + width <= 50
        assert height * width >= 0.9 * scale[0] * 1500 * 0.6


@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_the_number_of_workers_changes_nothing(photos: Path, crop: str) -> None:
    images = load(DataConfig(source=str(photos)), Path()).splits["train"]
    preprocessing = Preprocessing(channels=3, size=(32, 32), resize=36, mean=(0.5,) * 3, std=(0.2,) * 3)
    config = AugmentConfig(flip=True, crop=crop, color_jitter=0.4, lighting=0.1)
    epochs = [list(Loader(images, preprocessing, 7, config, seed=5, workers=workers).epoch(1)) for workers in (0, 2)]
    for alone, worked in zip(*epochs, strict=True):
        assert torch.equal(alone.samples, worked.samples)
        assert torch.equal(alone.images, worked.images)


def test_skipping_batches_gives_the_rest_of_the_same_epoch() -> None:
    images = load(DataConfig(source="digits"), Path()).splits["train"]
    preprocessing = Preprocessing(channels=1, size=(8, 8), resize=8, mean=(0.3,), std=(0.4,))
    loader = Loader(images, preprocessing, 100, AugmentConfig(crop="pad"), seed=1)
    whole = list(loader.epoch(4))
    rest = list(loader.epoch(4, skip=10))
    assert len(whole) == len(loader) == 18
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[10:], rest, strict=True))
    assert sorted(torch.cat([b.samples for b in whole]).tolist()) == list(range(1797))


def test_workers_outlive_a_signal_to_all_but_not_for_ever() -> None:
    """Whoever waits for them at exit, after an epoch that was left in the middle, gets away."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        _prepare_worker(os.getppid(), None, 0)
        for number in numbers:
            signal.raise_signal(number)
        assert 0 < signal.alarm(0) <= 60
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_crops_are_mirrored_by_the_sample_s_own_draw(photos: Path) -> None:
    images = load(DataConfig(source=str(photos)), Path()).splits["train"]
    preprocessing = Preprocessing(channels=3, size=(32, 32), resize=36, mean=(0.5,) * 3, std=(0.2,) * 3)
    plain, mirrored = (
        next(Loader(images, preprocessing, len(images), AugmentConfig(flip=flip, crop="resized")).epoch(3))
        for flip in (False, True)
    )
    which = augment.draws(0, 3, mirrored.samples)[:, augment.FLIP] < 0.5
    assert 0 < which.sum() < len(which)
    assert torch.equal(mirrored.images, torch.where(which[:, None, None, None], plain.images.flip(-1), plain.images))
