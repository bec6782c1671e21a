"""Derivatives of gradients by every plan: gradient penalties, MAML, Hessians, and torch.func's transforms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ops.test_plans import NETS, PLANS, images, network, with_plan

Found = dict[str, Tensor]


def second(model: nn.Module, x: Tensor, inputs: tuple[str, ...] = ("x", "parameters")) -> Found:
    """Gradients of the sum of squared gradients, and the running statistics; masks of dropout are drawn anew."""
    torch.manual_seed(0)
    x = x.detach().clone().requires_grad_("x" in inputs)
    parameters = [p for p in model.parameters() if p.requires_grad] if "parameters" in inputs else []
    asked = [*([x] if x.requires_grad else []), *parameters]
    first = torch.autograd.grad(model(x).square().sum(), asked, create_graph=True)
    sum(g.square().sum() for g in first).backward()
    named = dict(model.named_parameters()) | {"input": x}
    return {name: p.grad for name, p in named.items() if p.grad is not None} | dict(model.named_buffers())


def assert_as_concat(
    plan: str, compute: Callable[[nn.Module], Found], tolerance: float = 1e-8, **settings: Any
) -> None:
    model = network(**settings)
    expected, actual = compute(with_plan(model, "concat")), compute(with_plan(model, plan))
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().clamp_min(1e-9) if value.is_floating_point() else 1
        assert (actual[name] - value).abs().max() / scale <= tolerance, name


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_gradients_are_those_of_the_plain_form(plan, name, training, dropout, used):
    """Running statistics too: the pass that is differentiated again updates none."""
    assert_as_concat(plan, lambda model: second(model.train(training), images()), name=name, dropout_rate=dropout)
    assert len(used) == (3 if plan == "shared" else 0)


@pytest.mark.parametrize("inputs", [("x",), ("parameters",)])
def test_what_is_not_asked_for_may_be_missing(inputs, used):
    """A gradient penalty asks for the images alone, MAML for the weights, some of them frozen."""

    def compute(model: nn.Module) -> Found:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("norm1" not in name)
        return second(model, images(), inputs)

    assert_as_concat("shared", compute)
    assert used


def test_kernels_agree_in_float32(used):
    assert_as_concat(
        "shared", lambda model: second(model, images(dtype=torch.float32)), tolerance=2e-3, dtype=torch.float32
    )
    assert used


def test_the_first_gradients_are_the_same_with_and_without_a_graph():
    model, x = with_plan(network(), "shared"), images().requires_grad_()
    y = model(x).square().sum()
    plain = torch.autograd.grad(y, [x, *model.parameters()], retain_graph=True)
    again = torch.autograd.grad(y, [x, *model.parameters()], retain_graph=True)
    differentiable = torch.autograd.grad(y, [x, *model.parameters()], create_graph=True)
    for one, two, three in zip(plain, again, differentiable, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(three, one, rtol=1e-8, atol=1e-8)


def _third(model: nn.Module) -> Tensor:
    x = images(1, 3, 8, 8).requires_grad_()
    y = model(x).exp().sum()
    for _ in range(3):
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        y = g.square().sum()
    return g.detach()


def _by_pixels(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A scalar function of four numbers that are added to the pixels of an image."""
    x = images(1, 3, 8, 8)
    return lambda v: model(x + v.view(1, 1, 2, 2).repeat(1, 1, 4, 4)).exp().sum()


V = torch.full((4,), 0.1, dtype=torch.float64)
DERIVATIVES: dict[str, Callable[[nn.Module], Any]] = {
    "third order": _third,
    "functional.hessian": lambda model: torch.autograd.functional.hessian(_by_pixels(model), V),
    "functional.hessian, batched": lambda model: torch.autograd.functional.hessian(
        _by_pixels(model), V, vectorize=True
    ),
    "functional.hvp": lambda model: torch.autograd.functional.hvp(_by_pixels(model), V, V)[1],
    "func.hessian": lambda model: torch.func.hessian(_by_pixels(model))(V),
    "func.jacrev": lambda model: torch.func.jacrev(torch.func.jacrev(_by_pixels(model)))(V),
    "func.jvp": lambda model: torch.func.jvp(model, (images(),), (images().cos(),))[1],
    "func.vmap": lambda model: torch.func.vmap(lambda x: model(x[None])[0])(images()),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("way", DERIVATIVES)
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")  # forward mode compiles its rules by torch.jit
def test_every_way_to_ask_for_derivatives_gives_the_same_numbers(plan, way):
    model = network().eval()
    expected, actual = (DERIVATIVES[way](with_plan(model, each).eval()) for each in ("concat", plan))
    assert actual.abs().max() > 1e-6
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


def test_weights_changed_before_backward_are_noticed():
    model, x = with_plan(network(), "shared"), images().requires_grad_()
    y = model(x).square().sum()
    with torch.no_grad():
        model.features.denseblock1.denselayer1.conv1.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, x, create_graph=True)
