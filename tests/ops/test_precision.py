"""The compiled plan in float32 is as close to the float64 truth as torch is, however it is called."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from densekit.ops.backends.cpu import library
from tests.ops.test_plans import everything, network, with_plan

pytestmark = pytest.mark.skipif(not library.available(), reason="no compiler was there at installation")
SEEDS = 5


def eval_mode(model: nn.Module) -> None:
    model.eval()


def frozen_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def partly_frozen(model: nn.Module) -> None:
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 == 0)


def as_is(model: nn.Module) -> None:
    del model


def twice(model: nn.Module, x: Tensor) -> Tensor:
    return model(x) + model(x.flip(0) * 2)


def block(model: nn.Module, x: Tensor) -> Tensor:
    return model.features.denseblock1(x).square().mean((2, 3))


def columns(x: Tensor) -> Tensor:
    """Every second column of an image, every third channel, from the second on."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, 3 * c, h, 2 * w, dtype=x.dtype)
    wide[:, 1::3, :, 1::2] = x
    return wide[:, 1::3, :, 1::2]


def sliced(x: Tensor) -> Tensor:
    """Channels of a wider tensor in channels_last."""
    wide = torch.nn.functional.pad(x, (0, 0, 0, 0, 5, 3)).contiguous(memory_format=torch.channels_last)
    return wide[:, 5:-3]


def offset(x: Tensor) -> Tensor:
    """Not aligned to a vector."""
    return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)


def turned(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous().transpose(2, 3)


def median_errors(
    plan: str,
    name: str,
    prepare: Callable[[nn.Module], None],
    forward: Callable[[nn.Module, Tensor], Tensor] | None,
    arrange: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    **settings: object,
) -> dict[str, float]:
    """By tensor, over seeds: a ReLU that rounding flips spoils all gradients behind it, in one plan or the other."""
    errors: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        model = network(name, **settings)
        prepare(model)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        truth = everything(with_plan(model, "concat"), x.clone().requires_grad_(), forward)
        arranged = arrange(x.float()).detach().requires_grad_()
        found = everything(with_plan(model, plan).float(), arranged, forward)
        for key, value in truth.items():
            if value.is_floating_point() and value.norm() > 0:
                errors.setdefault(key, []).append(float((found[key].double() - value).norm() / value.norm()))
    return {key: float(torch.tensor(values).median()) for key, values in errors.items()}


CASES: dict[str, tuple[object, ...]] = {
    "training": (as_is, None, torch.clone, (4, 3, 16, 16), {}),
    "one image": (as_is, None, torch.clone, (1, 3, 16, 16), {}),
    "channels_last": (as_is, None, lambda x: x.contiguous(memory_format=torch.channels_last), (4, 3, 16, 16), {}),
    "evaluation with gradients": (eval_mode, None, torch.clone, (4, 3, 16, 16), {}),
    "frozen batch norm": (frozen_norms, None, torch.clone, (4, 3, 16, 16), {}),
    "partly frozen": (partly_frozen, None, torch.clone, (4, 3, 16, 16), {}),
    "twice": (as_is, twice, torch.clone, (4, 3, 16, 16), {}),
    "dropout": (as_is, None, torch.clone, (4, 3, 16, 16), {"dropout_rate": 0.3}),
    "steps": (as_is, block, columns, (2, 0, 9, 8), {}),
    "slice": (as_is, block, sliced, (2, 0, 9, 8), {}),
    "offset": (as_is, block, offset, (2, 0, 9, 8), {}),
    "turned": (as_is, block, turned, (2, 0, 9, 8), {}),
}


@pytest.mark.parametrize("name", ["densenet_bc_22_12", "densenet_22_7"])
@pytest.mark.parametrize("case", CASES)
def test_float32_is_as_close_to_the_truth_as_torch_is(name, case):
    prepare, forward, arrange, shape, settings = CASES[case]
    shape = tuple(each or network(name).features.conv0.out_channels for each in shape)
    theirs, ours = (
        median_errors(plan, name, prepare, forward, arrange, shape, **settings) for plan in ("concat", "shared")
    )
    assert theirs.keys() == ours.keys()
    # What is within a few units in the last place has no ratio: torch is at times exact by luck.
    few = 5 * torch.finfo(torch.float32).eps
    assert {key: (ours[key], theirs[key]) for key in theirs if ours[key] > max(2 * theirs[key], few)} == {}
