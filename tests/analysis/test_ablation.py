"""Cutting a connection is what zero weights would do, on every plan, and leaves nothing behind."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densekit.analysis import ablation, error_metrics
from densekit.analysis.connectivity import blocks_of, go_on, without, without_edges
from densekit.analysis.image_sample import Sample
from tests.analysis.conftest import Trained, zeroed


@torch.no_grad()
def test_a_cut_is_zero_weights(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    blocks = blocks_of(model)
    found = ablation.ablate(model, blocks, digits)
    maps, errors = found.maps(blocks)
    for b, block in enumerate(blocks):
        for s, r in block.edges():
            cut, whole = (
                F.cross_entropy(net(digits.images).double(), digits.targets, reduction="none")
                for net in (zeroed(model, b, s, r), model)
            )
            rises = cut - whole
            assert maps[b][s, r] == pytest.approx(rises.mean().item(), abs=1e-5)
            assert errors[b][s, r] == pytest.approx(rises.std().item() / len(digits) ** 0.5, abs=1e-5)
    assert len(found.edges) == sum((block.layers + 1) * (block.layers + 2) // 2 for block in blocks)


@pytest.mark.parametrize("plan", ["auto", "concat", "checkpoint", "shared"])
@torch.no_grad()
def test_cuts_work_on_every_plan(trained: Trained, digits: Sample, plan: str) -> None:
    model, _ = trained
    model.use_plan(plan)
    whole = model(digits.images)
    blocks = blocks_of(model)
    for b, s, r in ((0, 0, 1), (1, 1, 2), (1, 0, blocks[1].layers), (2, 1, blocks[2].layers)):
        with without(blocks[b].readers[r], [blocks[b].sources[s]]):
            cut = model(digits.images)
        torch.testing.assert_close(cut, zeroed(model, b, s, r)(digits.images), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(cut, whole, atol=1e-6)
    torch.testing.assert_close(model(digits.images), whole, rtol=0, atol=0)


@torch.no_grad()
def test_going_on_is_the_whole_network(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    taken = model.forward_intermediates(digits.images)[1]
    for block, maps in zip(blocks_of(model), taken, strict=True):
        for r, reader in enumerate(block.readers):
            seen = maps[:, : block.sources[reader.reads - 1].stop]
            torch.testing.assert_close(go_on(model, block, r, seen), model(digits.images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_several_cuts_at_one_reader_add_up(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    blocks = blocks_of(model)
    edges = [(blocks[0], 0, 2), (blocks[0], 1, 2), (blocks[2], 0, 1)]
    expected = zeroed(zeroed(zeroed(model, 0, 0, 2), 0, 1, 2), 2, 0, 1)(digits.images)
    with without_edges(edges):
        torch.testing.assert_close(model(digits.images), expected, rtol=1e-4, atol=1e-4)


def test_curves_begin_with_the_whole_network_and_end_with_none_of_it(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    blocks = blocks_of(model)
    found = ablation.ablate(model, blocks, digits)
    curves = ablation.remove(model, blocks, {"order": found.ranking(), **ablation.random_orders(found.edges)}, digits)
    assert len(curves) == 4
    for curve in curves:
        assert (curve.removed[0], curve.removed[-1]) == (0, len(found.edges))
        assert curve.error[0] == error_metrics.error_of(model, digits)
        assert curve.error[-1] == curves[0].error[-1]


def test_the_ranking_is_by_rise_of_the_loss(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    blocks = blocks_of(model)
    found = ablation.ablate(model, blocks, digits)
    rises = [found.maps(blocks)[0][b][s, r] for b, s, r in found.ranking()]
    assert rises == sorted(rises)
    half = found.ranking(slice(None, None, 2))
    assert sorted(half) == sorted(found.ranking())
    assert np.isfinite(rises).all()
