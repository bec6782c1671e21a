"""Plans in several processes: with each rank's own batch statistics, and with those of all of them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from densekit import ops
from tests.ops.test_plans import images, network, with_plan

RANKS = 2
# Of five images: ranks need not have equally many.
SHARES = (slice(0, 2), slice(2, 5))


def _rank(rank: int, plan: str, synced: bool, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    try:
        net = with_plan(network(), plan)
        if synced:
            ops.convert(net)
        model = DistributedDataParallel(net, broadcast_buffers=False)
        x = images(5, 3, 8, 8)[SHARES[rank]].requires_grad_()
        model(x).square().sum().backward()
        state = {f"grad {name}": p.grad for name, p in net.named_parameters()} | dict(net.named_buffers())
        torch.save(state | {"grad x": x.grad}, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _spawn(plan: str, synced: bool, folder: Path) -> list[dict[str, torch.Tensor]]:
    torch.multiprocessing.spawn(_rank, (plan, synced, str(folder)), RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def _close(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    scale = expected.abs().max().clamp_min(1e-12)
    assert (actual - expected).abs().max() <= 1e-10 * scale, name


# torch warns about its own use of its deprecated names.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("plan", ["checkpoint", "shared"])
def test_ranks_agree_with_one_process(plan: str, tmp_path: Path):
    expected: dict[str, torch.Tensor] = {}
    model = with_plan(network(), "concat")
    for share in SHARES:
        model.zero_grad()
        model(images(5, 3, 8, 8)[share]).square().sum().backward()
        for name, p in model.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / RANKS
    for state in _spawn(plan, False, tmp_path):
        for name, value in expected.items():
            _close(state[f"grad {name}"], value, name)


@pytest.mark.parametrize("plan", ["concat", "checkpoint", "shared"])
def test_synced_statistics_are_those_of_the_whole_batch(plan: str, tmp_path: Path):
    model = with_plan(network(), "concat")
    x = images(5, 3, 8, 8).requires_grad_()
    model(x).square().sum().backward()
    states = _spawn(plan, True, tmp_path)
    for share, state in zip(SHARES, states, strict=True):
        for name, p in model.named_parameters():
            _close(state[f"grad {name}"], p.grad / RANKS, name)  # DistributedDataParallel averages
        for name, buffer in model.named_buffers():
            _close(state[name], buffer, name)
        _close(state["grad x"], x.grad[share], "x")


def test_conversion_keeps_the_state_and_what_a_single_process_computes():
    model, converted = with_plan(network(), "shared"), with_plan(network(), "shared")
    ops.convert(converted)
    x = images(5, 3, 8, 8)
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0)
    assert list(converted.state_dict()) == list(model.state_dict())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(converted.get_buffer(name), buffer, rtol=0, atol=0)
