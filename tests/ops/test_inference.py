"""Evaluation without gradients folds weights; it must compute the same, and notice when they change."""

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from densekit.ops import inference
from densekit.ops.backends.cpu import library
from densekit.ops.backends.cpu.backend import CpuKernels
from tests.ops.test_plans import images, network, with_plan

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")


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


def some_filters(model: nn.Module) -> None:
    model.features.denseblock1.denselayer2.conv2.weight.data[3:6] *= 5


def one_weight(model: nn.Module) -> None:
    model.features.denseblock1.denselayer2.conv1.weight.data[7, 5] = 9


def signs(model: nn.Module) -> None:
    """Of every second weight: changes that a weak sum would cancel."""
    model.features.denseblock1.denselayer2.conv2.weight.data.view(-1)[::2].neg_()


def order(model: nn.Module) -> None:
    weight = model.features.denseblock1.denselayer2.conv1.weight.data
    weight.copy_(weight.flip(0))


def numpy(model: nn.Module) -> None:
    model.features.denseblock1.denselayer2.conv2.weight.detach().numpy()[:, :, 1, 1] += 1


def slimming(model: nn.Module) -> None:
    model.features.denseblock1.denselayer2.norm2.weight.data[1::2] = 0


def turned_view(model: nn.Module) -> None:
    """The same memory, read in another order."""
    layer = model.features.denseblock1.denselayer2
    layer.conv2.weight = nn.Parameter(layer.conv2.weight.detach().transpose(2, 3))


def turned_data(model: nn.Module) -> None:
    """The same parameter, too."""
    weight = model.features.denseblock1.denselayer2.conv2.weight
    weight.data = weight.data.transpose(2, 3)


def eps(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.5


def in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        model.features.denseblock1.denselayer2.conv1.weight.mul_(2)


def other_buffer(model: nn.Module) -> None:
    norm = model.features.denseblock1.denselayer2.norm1
    norm.running_mean = norm.running_mean * 1.5


def inference_buffer(model: nn.Module) -> None:
    """It carries no version."""
    norm = model.features.denseblock1.denselayer2.norm1
    with torch.inference_mode():
        norm.running_mean = norm.running_mean * 1.5
        model(images(dtype=torch.float32))
        norm.running_mean.mul_(2)


CHANGES: list[Callable[[nn.Module], object]] = [
    step,
    train_forward,
    through_data,
    replaced,
    other_module,
    some_filters,
    one_weight,
    signs,
    order,
    numpy,
    slimming,
    turned_view,
    turned_data,
    eps,
    in_inference_mode,
    other_buffer,
    inference_buffer,
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


def test_an_infinite_weight_hides_no_change_of_another():
    """A sum of floats would be infinite before and after."""
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    model.features.denseblock1.denselayer1.norm1.bias.data[0] = -torch.inf
    assert_exact(model, images(dtype=torch.float32))
    through_data(model)
    assert_exact(model, images(dtype=torch.float32))


def test_parameters_of_a_functional_call_are_told_apart():
    """Each call's are freed behind it, and the next one's may come to lie in the same memory."""
    model, x = with_plan(network(dtype=torch.float32), "shared").eval(), images(dtype=torch.float32)
    name = "features.denseblock1.denselayer2.conv2.weight"
    for i in range(6):
        parameters = {key: p.detach().clone() for key, p in model.named_parameters()}
        parameters[name][1 + i] *= 50
        with torch.no_grad():
            found = [torch.func.functional_call(with_plan(model, "concat"), parameters, (x,))]
            found.append(torch.func.functional_call(model, parameters, (x,)))
        del parameters
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)


def test_every_bit_counts():
    """Also of a tensor that fills no vector, and the order of tensors."""

    def digest(*tensors: Tensor) -> int:
        return CpuKernels().content_digest(tensors)()

    for size in (1, 7, 64, 129, 1000):
        x, other = torch.randn(size), torch.randn(size)
        before = digest(x, other)
        assert digest(other, x) != before
        for at in {0, size // 2, size - 1}:
            for bit in range(32):
                flipped = x.clone()
                flipped.view(torch.int32)[at] ^= 1 << bit if bit < 31 else -(1 << 31)
                assert digest(flipped, other) != before
        assert digest(x, other) == before


def test_weights_made_in_inference_mode_are_not_folded(used):
    """They have no versions, so a change could not be seen."""
    with torch.inference_mode():
        assert_exact(with_plan(network(dtype=torch.float32), "shared").eval(), images(dtype=torch.float32))
    assert not used


def test_copies_and_pickles_carry_no_folded_weights():
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    before = len(inference._cache)
    assert_exact(model, images(dtype=torch.float32))
    assert len(inference._cache) == before + 3
    twin = copy.deepcopy(model)
    assert len(inference._cache) == before + 3
    nn.init.normal_(twin.features.denseblock1.denselayer1.conv1.weight)
    assert_exact(twin, images(dtype=torch.float32))
    del model, twin
    gc.collect()
    assert len(inference._cache) == before


def test_a_weight_that_changes_while_others_are_folded_is_seen_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a thread that trains while another one predicts."""
    model, x = with_plan(network(dtype=torch.float32), "shared").eval(), images(dtype=torch.float32)
    layer = model.get_submodule("features.denseblock1.denselayer1")
    fold = CpuKernels.block_weights
    changed: list[int] = []

    def block_weights(self: CpuKernels, tensors: list[Tensor]) -> object:
        folded = fold(self, tensors)
        if not changed:
            changed.append(1)
            with torch.no_grad():
                layer.conv1.weight.mul_(3)
        return folded

    monkeypatch.setattr(CpuKernels, "block_weights", block_weights)
    with torch.inference_mode():
        model(x)
    assert changed
    assert_exact(model, x)
