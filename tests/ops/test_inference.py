"""Evaluation without gradients folds weights; it must compute the same, and notice when they change."""

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from densekit.ops import inference, native
from tests.ops.test_plans import images, network, with_plan

pytestmark = pytest.mark.skipif(not native.available(), reason="no compiler was there at installation")


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts blocks that took this way."""
    calls: list[int] = []
    real = inference.run

    def run(*arguments: object) -> Tensor:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(inference, "run", run)
    return calls


def assert_exact(model: nn.Module, x: Tensor) -> None:
    """Against the plain form in float64, which sees the same weights."""
    truth = with_plan(copy.deepcopy(model).double(), "concat")
    with torch.inference_mode():
        actual, expected = model(x), truth(x.double())
    assert (actual.double() - expected).norm() <= 2e-6 * expected.norm()


@pytest.mark.parametrize("name", ["densenet_bc_22_12", "densenet_b_16_5", "densenet_bc_16_40"])
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (3, 3, 13, 12), (2, 3, 33, 40), (9, 3, 8, 8)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_function(name, shape, threads, used):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_exact(with_plan(network(name, torch.float32), "shared").eval(), images(*shape, dtype=torch.float32))
    finally:
        torch.set_num_threads(before)
    assert len(used) == 3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(layout):
    model = with_plan(network(dtype=torch.float32), "shared").eval().to(memory_format=layout)
    x = images(dtype=torch.float32).contiguous(memory_format=layout)
    assert_exact(model, x)
    with torch.inference_mode():
        assert model.forward_features(x).is_contiguous(memory_format=layout)


def test_blocks_by_themselves(used):
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    with torch.inference_mode():
        actual = model.features(images(dtype=torch.float32))
        expected = with_plan(model, "concat").features(images(dtype=torch.float32))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert len(used) == 3


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images(dtype=torch.float32)).sum().backward()
    optimizer.step()


def train_forward(model: nn.Module) -> None:
    with torch.no_grad():
        model.train()(images(dtype=torch.float32) * 3)
    model.eval()


def through_data(model: nn.Module) -> None:
    model.features.denseblock2.denselayer1.conv2.weight.data.mul_(0.5)


def replaced(model: nn.Module) -> None:
    layer = model.features.denseblock1.denselayer1
    layer.conv1.weight = nn.Parameter(layer.conv1.weight.detach() * 2)


def other_module(model: nn.Module) -> None:
    block = model.features.denseblock1
    block["denselayer1"] = copy.deepcopy(block["denselayer1"])
    nn.init.normal_(block["denselayer1"].norm1.weight)


CHANGES: list[Callable[[nn.Module], object]] = [
    step,
    train_forward,
    through_data,
    replaced,
    other_module,
    lambda model: model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}),
    lambda model: model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}, assign=True),
    lambda model: model.double().float(),
    lambda model: model.features.denseblock3.denselayer2.norm2.running_var.fill_(3),
    lambda model: model.to(memory_format=torch.channels_last),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_folded_again(change):
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    assert_exact(model, images(dtype=torch.float32))
    change(model)
    assert_exact(model, images(dtype=torch.float32))


def test_weights_made_in_inference_mode_are_not_folded(used):
    """They have no versions, so a change could not be seen."""
    with torch.inference_mode():
        assert_exact(with_plan(network(dtype=torch.float32), "shared").eval(), images(dtype=torch.float32))
    assert not used


def test_copies_and_pickles_carry_no_folded_weights():
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    before = len(inference._kept)
    assert_exact(model, images(dtype=torch.float32))
    assert len(inference._kept) == before + 3
    twin = copy.deepcopy(model)
    assert len(inference._kept) == before + 3
    nn.init.normal_(twin.features.denseblock1.denselayer1.conv1.weight)
    assert_exact(twin, images(dtype=torch.float32))
    del model, twin
    gc.collect()
    assert len(inference._kept) == before
