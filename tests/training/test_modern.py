"""What the modern recipe is made of does what its settings say, and resumes exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

import densekit
from densekit.config import AugmentConfig, OptimizerConfig, Recipe, with_settings
from densekit.data.auto_augment import policy_for
from densekit.data.mixing import mixing_for
from densekit.errors import Interrupted, InvalidInput
from densekit.models import config_for
from densekit.recipes import recipe_for
from densekit.training import trainer
from densekit.training.optimizer import optimizer_for
from densekit.training.resume import resume_until
from densekit.training.setup import prepare
from densekit.training.step import train_step
from tests.faults.command import state_of, train_until
from tests.networks import Linear, first_gradient

SMALL = {"data.limit": 200, "batch_size": 50}


def recipe(**settings: object) -> Recipe:
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    return with_settings(recipe_for("modern", "digits", config_for("densenet_bc_10_4")), SMALL | changes)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_all_of_it_resumes_exactly(precision: str, tmp_path: Path) -> None:
    """Policy, mixing, erasing, clipping, the average, resizing, class weights and the scale of the loss."""
    settings = SMALL | {
        "precision": precision,
        "resize": [[0.0, 8], [0.5, 12]],
        "class_weights": "balanced",
        "augment.policy": "rand",
        "accumulate": 2,
        "model.dropout_rate": 0.1,
    }
    words: dict[str, Any] = {"recipe": "modern", "model": "densenet_bc_10_4", "epochs": 2, "settings": settings}
    whole = densekit.train("digits", out=tmp_path / "whole", **words).folder
    cut = tmp_path / "cut"
    train_until(3, "digits", out=cut, **words)
    for step in (4, 6):  # the second of two epochs
        with pytest.raises(Interrupted):
            resume_until(cut, step, None, Console(quiet=True))
    densekit.resume(cut)
    assert state_of(cut) == state_of(whole)
    scale = json.loads((whole / "checkpoints/last/state.json").read_text())["scaler"]
    assert bool(scale) == (precision == "float16")


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_a_policy_changes_a_sample_by_its_address_and_nothing_else(policy: str) -> None:
    apply = policy_for(AugmentConfig(policy=policy))
    assert apply is not None
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    before = torch.random.get_rng_state()
    first = apply(pixels, 1, 2, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == pixels.shape
    assert first.dtype == torch.uint8
    torch.rand(5)
    assert torch.equal(apply(pixels, 1, 2, 3), first)
    others = [apply(pixels, *address) for address in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 2, 5), (1, 2, 6)]]
    assert sum(not torch.equal(other, first) for other in others) >= 3  # some operations are the identity


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_mixed_labels_are_shares(mixup: float, cutmix: float) -> None:
    mix = mixing_for(AugmentConfig(mixup=mixup, cutmix=cutmix), 4)
    assert mix is not None
    images, targets = mix(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1]))
    assert images.shape == (6, 3, 8, 8)
    assert targets.shape == (6, 4)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert mixing_for(AugmentConfig(), 4) is None


def test_weight_decay_leaves_out_what_is_named() -> None:
    model = densekit.create_model("densenet_bc_10_4", num_classes=3)
    optimizer = optimizer_for(model, OptimizerConfig(weight_decay=0.1, no_decay=("*norm*", "*.bias")))
    decayed, free = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    for name, parameter in model.named_parameters():
        assert id(parameter) in (free if "norm" in name or name.endswith("bias") else decayed), name
    with pytest.raises(InvalidInput, match="no_decay"):
        optimizer_for(model, OptimizerConfig(no_decay=("*bn*",)))


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    prepared = prepare(recipe(optimizer__clip_norm=0.01), tmp_path)
    state = trainer.start(prepared)
    batch = next(prepared.loader("train", prepared.recipe.augment).epoch(0))
    train_step(state, batch, prepared, 0.1, [len(batch.samples)])
    norm = torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None]).norm()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_balanced_classes_weigh_alike_in_the_loss(tmp_path: Path) -> None:
    prepared = prepare(recipe(class_weights="balanced", data__limit=150), tmp_path)
    labels = prepared.data.splits["train"].labels
    weights = prepared.task.weights
    assert weights is not None
    counts = torch.bincount(labels, minlength=10)
    torch.testing.assert_close(weights * counts, torch.full((10,), 15.0))
    # 1 on average over the images, so the rate need not change.
    assert weights[labels].mean() == pytest.approx(1.0)


def test_images_grow_when_the_recipe_says(tmp_path: Path) -> None:
    sizes: list[tuple[int, ...]] = []
    prepared = prepare(recipe(resize=[[0.0, 8], [0.5, 12], [0.75, 16]], epochs=4), tmp_path)
    state = trainer.start(prepared)
    state.model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    for epoch in range(4):
        state.progress.epoch = epoch
        batch = next(prepared.loader("train", prepared.recipe.augment).epoch(epoch))
        train_step(state, batch, prepared, 0.1, [len(batch.samples)])
    assert sizes == [(8, 8), (8, 8), (12, 12), (16, 16)]


@pytest.mark.parametrize("resize", [[[0.5, 12], [0.0, 8]], [[0.0, 8], [0.0, 12]]])
def test_shares_of_resizing_that_do_not_rise_are_refused(resize: object) -> None:
    with pytest.raises(InvalidInput, match="resize"):
        recipe(resize=resize)


def test_a_size_too_small_for_the_network_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too small"):
        prepare(recipe(resize=[[0.0, 2]]), tmp_path)


def test_pieces_of_a_batch_add_up_to_its_gradient(tmp_path: Path) -> None:
    """Without batch norm's statistics, which are each piece's own: in a network that has none."""
    gradients = []
    for pieces in (1, 3):
        plain = recipe(accumulate=pieces, optimizer__clip_norm=None, augment__mixup=0.0, augment__cutmix=0.0)
        prepared = prepare(plain, tmp_path)
        torch.manual_seed(0)
        model = Linear(64, 10)
        gradient, batch = first_gradient(prepared, model)
        gradients.append(gradient)
    loss = F.cross_entropy(model(batch.images), batch.targets, label_smoothing=plain.label_smoothing)
    expected = torch.autograd.grad(loss, model.head.weight)[0]
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected)


def test_the_recipe_for_photographs_trains_a_folder(photos: Path, tmp_path: Path) -> None:
    settings = {"data.image_size": 32, "batch_size": 8, "data.workers": 0, "resize": [[0.0, 16], [0.5, 32]]}
    run = densekit.train(
        str(photos), recipe="modern", model="densenet_bc_10_4", epochs=2, out=tmp_path / "run", settings=settings
    )
    assert run.result.count > 0
