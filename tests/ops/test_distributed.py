"""Plans in several processes: with each rank's own batch statistics, and with those of all of them."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densekit import ops
from densekit.ops import batch_norm
from densekit.ops.backends.cpu import library
from tests.ops.test_plans import images, network, with_plan

RANKS = 2
# Of five images: ranks need not have equally many.
SHARES = (slice(0, 2), slice(2, 5))


def _watched(net: nn.Module) -> None:
    net.features.denseblock1.denselayer2.conv1.register_forward_hook(lambda *_: None)


def _observed(net: nn.Module) -> None:
    """The block's node cannot take the batch norm behind it along, or is not asked to."""
    net.features.register_forward_hook(lambda *_: None)


def _watched_transition(net: nn.Module) -> None:
    net.features.transition1.relu.register_forward_hook(lambda *_: None)


def _nothing(net: nn.Module) -> None:
    del net


class Case(NamedTuple):
    """A step of two ranks."""

    plan: str
    synced: bool = True
    alone: Callable[[nn.Module], None] = _nothing
    """Done on the first rank only."""
    shares: Sequence[slice] = SHARES
    size: int = 8
    dtype: torch.dtype = torch.float64


State = dict[str, torch.Tensor]


def _rank(rank: int, folder: str, cases: Sequence[Case]) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=60)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS, timeout=patience
    )
    try:
        torch.save([_step(rank, case) for case in cases], f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _step(rank: int, case: Case) -> State:
    net = with_plan(network().to(case.dtype), case.plan)  # drawn in float64, as what it is compared with
    if case.synced:
        ops.convert_sync_batch_norm(net)
    if rank == 0:
        case.alone(net)
    model = DistributedDataParallel(net, broadcast_buffers=False)
    x = images(5, 3, case.size, case.size, dtype=case.dtype)[case.shares[rank]].requires_grad_()
    model(x).square().sum().backward()
    state = {f"grad {name}": p.grad for name, p in net.named_parameters()} | dict(net.named_buffers())
    return state | {"grad x": x.grad}


def _spawn(folder: Path, *cases: Case) -> list[tuple[State, State]]:
    """Of each case, what the ranks have. In the same processes, as starting those takes most of the time."""
    torch.multiprocessing.spawn(_rank, (str(folder), cases), RANKS)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(RANKS))
    return list(zip(first, second, strict=True))


def _close(actual: torch.Tensor, expected: torch.Tensor, name: str, tolerance: float = 1e-10) -> None:
    scale = expected.abs().max().clamp_min(1e-12)
    assert (actual - expected).abs().max() <= tolerance * scale, name


# torch warns about its own use of its deprecated names.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.slow
def test_ranks_agree_with_one_process(tmp_path: Path):
    expected: dict[str, torch.Tensor] = {}
    model = with_plan(network(), "concat")
    for share in SHARES:
        model.zero_grad()
        model(images(5, 3, 8, 8)[share]).square().sum().backward()
        for name, p in model.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / RANKS
    for states in _spawn(tmp_path, Case("checkpoint", synced=False), Case("shared", synced=False)):
        for state in states:
            for name, value in expected.items():
                _close(state[f"grad {name}"], value, name)


def _assert_whole_batch(folder: Path, *cases: Case, tolerance: float = 1e-10):
    """That the ranks have the gradients and buffers of one process with all images."""
    for case, states in zip(cases, _spawn(folder, *cases), strict=True):
        model = with_plan(network(), "concat")
        x = images(5, 3, case.size, case.size)[: case.shares[-1].stop].requires_grad_()
        model(x).square().sum().backward()
        for share, state in zip(case.shares, states, strict=True):
            for name, p in model.named_parameters():
                # DistributedDataParallel averages.
                _close(state[f"grad {name}"], p.grad / RANKS, f"{name} of {case}", tolerance)
            for name, buffer in model.named_buffers():
                _close(state[name], buffer, f"{name} of {case}", tolerance)
            _close(state["grad x"], x.grad[share], f"x of {case}", tolerance)


@pytest.mark.slow
def test_synced_statistics_are_those_of_the_whole_batch(tmp_path: Path):
    _assert_whole_batch(tmp_path, Case("concat"), Case("checkpoint"), Case("shared"))


@pytest.mark.slow
def test_a_single_value_is_enough_where_others_have_more(tmp_path: Path):
    """The last block sees single pixels; the first rank has one image."""
    shares = (slice(0, 1), slice(1, 3))
    cases = (Case(plan, shares=shares, size=4) for plan in ("concat", "shared"))
    _assert_whole_batch(tmp_path, *cases, tolerance=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["checkpoint", "shared"])
def test_what_one_rank_cannot_run_as_one_none_does(plan: str, tmp_path: Path):
    """Else each would wait for statistics that the other never sends."""
    _assert_whole_batch(tmp_path, *(Case(plan, alone=alone) for alone in (_watched, _observed, _watched_transition)))


@pytest.mark.slow
@pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")
def test_kernels_pool_theirs(tmp_path: Path):
    _assert_whole_batch(tmp_path, Case("shared", dtype=torch.float32), tolerance=1e-3)


def _pooling(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    try:
        x = _far_from_zero()[SHARES[rank]]
        variance, mean = torch.var_mean(x, 0, unbiased=False)
        torch.save(batch_norm.all_reduce_moments(mean, variance, len(x)), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _far_from_zero() -> torch.Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e6


def test_a_large_offset_costs_pooling_no_digits(tmp_path: Path):
    """Mean squares less squared means would lose twelve of them."""
    torch.multiprocessing.spawn(_pooling, (str(tmp_path),), RANKS)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    variance, mean = torch.var_mean(_far_from_zero() - 1e6, 0, unbiased=False)
    for pooled_mean, pooled_variance, count in found:
        assert count == 5
        torch.testing.assert_close(pooled_mean - 1e6, mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(pooled_variance, variance, rtol=1e-9, atol=0)
    assert torch.equal(found[0][1], found[1][1])


def test_being_apart_within_being_apart_ends_with_the_outer_one():
    with ops.unsynchronised():
        with ops.unsynchronised():
            pass
        assert not batch_norm._enabled
    assert batch_norm._enabled


def test_conversion_keeps_the_state_and_what_a_single_process_computes():
    model, converted = with_plan(network(), "shared"), with_plan(network(), "shared")
    ops.convert_sync_batch_norm(converted)
    x = images(5, 3, 8, 8)
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0)
    assert list(converted.state_dict()) == list(model.state_dict())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(converted.get_buffer(name), buffer, rtol=0, atol=0)
