"""Balanced sampling: equally many images of each class, and every repetition augmented for itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from densekit import resume, train
from densekit.config import AugmentConfig, Preprocessing
from densekit.data import Loader
from densekit.data.loader import Batch
from densekit.data.sampling import balanced_order
from densekit.data.sets import ArrayImages, FileImages
from densekit.errors import InvalidInput
from densekit.training.compose import compose
from densekit.training.setup import prepare
from tests.conftest import write_photos
from tests.data.xrays import SETTINGS as XRAYS
from tests.faults.command import state_of, train_until

NAN = float("nan")
PLAIN = Preprocessing(channels=1, size=(4, 4), resize=4, mean=(0,), std=(1,))
RARE = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)


def drawn(labels: Tensor, seed: int = 0) -> Tensor:
    return balanced_order(labels, torch.Generator().manual_seed(seed)) % len(labels)


def loader(**settings: Any) -> Loader:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (100, 1, 4, 4), dtype=np.uint8))
    given: dict[str, Any] = {"augmentation": AugmentConfig(crop="pad", flip=True), "balanced": True} | settings
    return Loader(ArrayImages(pixels, RARE), PLAIN, 8, **given)


def epoch_of(batches: Loader, epoch: int = 0, skip: int = 0) -> list[Batch]:
    return list(batches.epoch(epoch, skip))


@given(st.lists(st.integers(0, 4), min_size=5, max_size=60), st.integers(0, 99))
def test_every_class_is_drawn_equally_often(labels: list[int], seed: int) -> None:
    """And within a class every image, up to once."""
    found = drawn(torch.tensor(labels), seed)
    assert len(found) == len(labels)
    counts = torch.bincount(torch.tensor(labels)[found])[sorted(set(labels))]
    assert counts.max() - counts.min() <= 1
    for label in set(labels):
        members = [i for i, own in enumerate(labels) if own == label]
        times = torch.bincount(found, minlength=len(labels))[members]
        assert times.max() - times.min() <= 1


def test_an_even_data_set_has_every_image_once() -> None:
    assert sorted(drawn(torch.arange(4).repeat(5)).tolist()) == list(range(20))


def test_of_several_labels_each_is_drawn_equally_often_and_none_at_all_too() -> None:
    """An image of two labels may be drawn for either; what is not known draws nothing."""
    rows = [[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2 + [[0.0, 0.0]] * 30 + [[0.0, NAN]] * 4 + [[NAN, NAN]] * 6
    labels = torch.tensor(rows)
    found = drawn(labels)
    counts = dict.fromkeys(("a", "b", "none"), 0)
    for row in labels[found].tolist():
        counts["a" if row[0] == 1 else "b" if row[1] == 1 else "none"] += 1
    assert counts == {"a": 15, "b": 15, "none": 15}
    assert found.max() < 39
    both = torch.tensor([[1.0, 1.0], *[[0.0, 0.0]] * 8])
    assert (drawn(both) == 0).sum() == 6


def test_one_label_is_as_likely_as_its_absence() -> None:
    labels = torch.tensor([[1.0]] * 4 + [[0.0]] * 36)
    assert (drawn(labels) < 4).sum() == 20


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    orders = {
        tuple(torch.cat([b.samples for b in epoch_of(loader(seed=s), e)]).tolist()) for s in (0, 1) for e in (0, 1)
    }
    assert len(orders) == 4
    again, first = epoch_of(loader(), 1, skip=5), epoch_of(loader(), 1)
    assert len(first) == len(loader()) == len(loader(balanced=False)) == 13
    for one, two in zip(again, first[5:], strict=True):
        torch.testing.assert_close(one.images, two.images, rtol=0, atol=0)
        assert torch.equal(one.targets, RARE[one.samples])


def test_processes_divide_the_same_draws() -> None:
    whole = epoch_of(loader())
    parts = [epoch_of(loader(rank=rank, size=3)) for rank in range(3)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for rank, share in enumerate(shares):
            assert torch.equal(share.images, batch.images[rank::3])


def test_a_repeated_image_is_augmented_anew() -> None:
    """The two images of the rarest class fill a third of an epoch: eight crops would not do."""
    crops = torch.cat([batch.images[batch.samples == 99] for batch in epoch_of(loader())])
    assert len(crops) >= 16
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) > 8


def test_files_are_drawn_and_augmented_as_arrays_are_whatever_the_workers(tmp_path: Path) -> None:
    root = write_photos(tmp_path / "photos", count=6)
    paths = tuple(sorted(root.rglob("*.png")))[:8]  # six cats, two dogs
    labels = torch.tensor([int(path.parent.name == "dog") for path in paths])
    plain = Preprocessing(channels=3, size=(16, 16), resize=16, mean=(0,) * 3, std=(1,) * 3)
    augmentation = AugmentConfig(crop="resized", policy="trivial", flip=True)
    images = FileImages(paths, labels, root)
    by = [Loader(images, plain, 3, augmentation, workers=workers, balanced=True) for workers in (0, 2)]
    one, two = (torch.cat([batch.images for batch in epoch_of(each)]) for each in by)
    samples = torch.cat([batch.samples for batch in epoch_of(by[0])])
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert torch.bincount(labels[samples]).tolist() == [4, 4]
    assert len({tuple(x.flatten().tolist()) for x in one}) == len(one)


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "model": "densenet_bc_10_4",
        "epochs": 2,
        "settings": {"sampling": "balanced", "data.limit": 120},
    }
    whole = train("digits", out=tmp_path / "whole", **words)
    train_until(3, "digits", out=tmp_path / "run", **words)
    resume(tmp_path / "run")
    assert state_of(tmp_path / "run") == state_of(whole.folder)
    plain = train("digits", out=tmp_path / "plain", **words | {"settings": {"data.limit": 120}})
    assert state_of(plain.folder) != state_of(whole.folder)


def test_training_draws_rare_labels_as_often(xrays: Path, tmp_path: Path) -> None:
    settings = XRAYS | {"sampling": "balanced", "data.image_size": 16}
    prepared = prepare(compose(f"csv:{xrays}", model="densenet_bc_10_4", settings=settings), tmp_path)
    labels = prepared.data.splits["train"].labels
    with prepared.loader("train", prepared.recipe.augment).reading() as batches:
        samples = torch.cat([batch.samples for batch in batches])
    before, after = ((labels[rows] == 1).sum(0) for rows in (torch.arange(len(labels)), samples))
    assert len(samples) == len(labels)
    assert after.min() >= len(labels) // (labels.shape[1] + 1)
    assert after.min() / after.max() > before.min() / before.max()
    assert not prepared.loader("val").balanced


def test_it_is_not_combined_with_balanced_weights() -> None:
    with pytest.raises(InvalidInput, match="choose one"):
        compose("digits", settings={"sampling": "balanced", "class_weights": "balanced"})
