"""Plans under DistributedDataParallel: gradients reach every rank, and are the mean of what each rank computed."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from tests.ops.test_plans import images, network, with_plan

RANKS = 2


def _rank(rank: int, plan: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    try:
        model = DistributedDataParallel(with_plan(network(), plan))
        model(images(4, 3, 8, 8)[rank::RANKS]).square().sum().backward()
        gradients = {name: p.grad for name, p in model.module.named_parameters()}
        torch.save(gradients, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


# torch warns about its own use of its deprecated names.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("plan", ["checkpoint", "shared"])
def test_ranks_agree_with_one_process(plan: str, tmp_path: Path):
    expected: dict[str, torch.Tensor] = {}
    model = with_plan(network(), "concat")
    for rank in range(RANKS):
        model.zero_grad()
        model(images(4, 3, 8, 8)[rank::RANKS]).square().sum().backward()
        for name, p in model.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / RANKS
    torch.multiprocessing.spawn(_rank, (plan, str(tmp_path)), RANKS)
    for rank in range(RANKS):
        actual = torch.load(tmp_path / f"{rank}.pt")
        for name, value in expected.items():
            scale = value.abs().max().clamp_min(1e-12)
            assert (actual[name] - value).abs().max() <= 1e-10 * scale, name
