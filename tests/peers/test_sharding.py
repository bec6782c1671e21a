"""FSDP2 in two processes: sharded parameters have the gradients that whole ones have, by every plan."""

import copy
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn

from densekit import create_model, ops
from densekit.models import ImageClassifier
from tests.narrow import expect_type, not_none

RANKS = 2
WRAPS = ("whole", "blocks", "layers")
MODES = ("training", "evaluation", "synced")
PLANNED = [
    *(("densenet_bc_16_8", plan, wrap) for plan in ops.PLANS if plan != "auto" for wrap in WRAPS),
    *((name, "auto", "blocks") for name in ("resnet_8", "preact_resnet_20")),
]


class Case(NamedTuple):
    """A step of two ranks."""

    name: str
    plan: str
    wrap: str
    mode: str


CASES = [Case(*planned, mode) for planned in PLANNED for mode in MODES]


def network(case: Case) -> ImageClassifier:
    """The same in every process, with running statistics that fit."""
    torch.manual_seed(1)
    model = create_model(case.name, plan=case.plan).double()
    with torch.no_grad():
        model(images())
    return model.train(case.mode != "evaluation")


def images() -> Tensor:
    return torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(4)).double()


def shares() -> tuple[Tensor, ...]:
    return images().chunk(RANKS)


def parts(model: nn.Module, wrap: str) -> list[nn.Module]:
    """What is sharded by itself, from the inside out."""
    found: list[nn.Module] = []
    for name, module in model.named_modules():
        depth = name.count(".")
        if (wrap == "blocks" and depth == 1) or (wrap == "layers" and depth in (1, 2)):
            found.append(module)
    return [*reversed(found), model]


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=120)
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=patience)
    try:
        mesh = init_device_mesh("cpu", (RANKS,))
        found = []
        for case in CASES:
            model = network(case)
            if case.mode == "synced":
                ops.convert_sync_batch_norm(model)
            for module in parts(model, case.wrap):
                if list(module.parameters()):
                    fully_shard(module, mesh=mesh)
            model(shares()[rank]).square().sum().backward()
            gradients = {name: expect_type(p.grad, DTensor).full_tensor() for name, p in model.named_parameters()}
            state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
            found.append((gradients, dict(model.named_buffers()), state))
        answers = [
            _answers(network(Case("densenet_bc_16_8", "shared", wrap, "evaluation")).float(), wrap) for wrap in WRAPS
        ]
        torch.save((found, answers), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def _answers(model: ImageClassifier, wrap: str | None) -> Tensor:
    """Before and after a step in single precision, of which the kernels keep what they folded."""
    for module in parts(model, wrap) if wrap else ():
        if list(module.parameters()):
            fully_shard(module, mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.1), []
    for _ in range(3):
        with torch.no_grad():
            found += [model(images().float()), model(images().float())]
        model(images().float()).square().mean().backward()
        optimizer.step()
    return torch.stack(found)


def expected_of(case: Case) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Of each rank, gradients and buffers: as networks of its own have them, averaged, or one that sees all images."""
    model = network(case._replace(plan="concat"))
    batches = (images(),) if case.mode == "synced" else shares()
    twins = [copy.deepcopy(model) for _ in batches]
    for twin, batch in zip(twins, batches, strict=True):
        twin(batch).square().sum().backward()
    gradients = {}
    for name, _ in model.named_parameters():
        gradients[name] = torch.stack([not_none(twin.get_parameter(name).grad) for twin in twins]).sum(0) / RANKS
    return [(gradients, dict(twins[rank % len(twins)].named_buffers())) for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_sharded_parameters_have_the_gradients_of_whole_ones(tmp_path: Path) -> None:
    """With each rank's own statistics, running ones, and those of all ranks; shards also make the whole state again."""
    spawn(_rank, (str(tmp_path),), RANKS)
    ranks, answers = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)), strict=True)
    whole = _answers(network(Case("densenet_bc_16_8", "concat", "whole", "evaluation")).float(), None)
    assert (whole[4] - whole[0]).abs().max() > 0.1
    for each in (*answers[0], *answers[1]):
        torch.testing.assert_close(each, whole, rtol=1e-4, atol=1e-4)
    for i, case in enumerate(CASES):
        before = network(case).state_dict()
        for found, (gradients, buffers) in zip(ranks, expected_of(case), strict=True):
            for kind, mine, other in (("gradient", found[i][0], gradients), ("buffer", found[i][1], buffers)):
                assert mine.keys() == other.keys(), case
                for name, value in other.items():
                    message = f"{kind} of {name} in {case}"
                    torch.testing.assert_close(mine[name], value, rtol=1e-9, atol=1e-10, msg=message)
            state = found[i][2]
            assert state.keys() == before.keys(), case
            assert all(torch.equal(state[name], before[name]) for name in gradients), case
