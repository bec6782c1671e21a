"""Recomputing is what nobody notices: not hooks, not parametrisations, not who changes the network before backward."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.ops.test_plans import assert_same, everything, images, network, with_plan


def layers(model: nn.Module) -> list[nn.Module]:
    return list(model.features.denseblock1.values())


@pytest.mark.parametrize("name", ["norm1", "relu1", "conv1", "norm2"])
def test_a_hook_is_called_once(name):
    model, calls = with_plan(network(), "checkpoint"), []
    getattr(layers(model)[1], name).register_forward_hook(lambda *_: calls.append(1))
    model(images()).sum().backward()
    assert len(calls) == 1


def test_a_power_iteration_is_made_once():
    """Spectral norm's vectors are buffers that a forward pass moves on."""
    model = network()
    parametrizations.spectral_norm(layers(model)[1].conv1)
    assert_same(model, "checkpoint", images().requires_grad_())


@pytest.mark.parametrize("what", ["weight", "factor", "statistics", "input"])
def test_what_changes_before_backward_is_an_error(what):
    model = with_plan(network(), "checkpoint").train(what != "statistics")
    x = images(2, 24, 8, 8).requires_grad_() * 1
    loss = model.features.denseblock1(x).square().sum()
    with torch.no_grad():
        for layer in layers(model):
            match what:
                case "weight":
                    layer.conv1.weight.mul_(2)
                case "factor":
                    layer.norm1.weight.mul_(2)
                case "statistics":
                    layer.norm1.running_mean.add_(1)
                case "input":
                    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("what", ["mode", "weight", "factor", "eps", "functional_call"])
def test_what_is_replaced_before_backward_does_not_count(what):
    model, x = network(), images().requires_grad_()
    expected = everything(with_plan(model, "concat"), x)

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if what == "functional_call":
            halves = {name: p / 2 for name, p in model.named_parameters()}
            doubled = {name: half * 2 for name, half in halves.items()}
            return torch.func.functional_call(model, doubled, (x,))
        y = model(x)
        match what:
            case "mode":
                model.eval()
            case "eps":
                layers(model)[1].norm1.eps = 1.0
        return y

    twin, other = with_plan(model, "checkpoint"), images().requires_grad_()
    if what in ("weight", "factor"):
        module = layers(twin)[1].conv1 if what == "weight" else layers(twin)[1].norm1
        kept = module.weight
        torch.manual_seed(2)
        y = twin(other)
        module.weight = nn.Parameter(torch.zeros_like(kept))
        (y * torch.arange(1, 1 + y.shape[1])).square().sum().backward()
        module.weight = kept
        actual = {f"grad {name}": p.grad for name, p in twin.named_parameters()} | {"input": other.grad}
    else:
        actual = everything(twin, other, forward)
    for key, value in actual.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-9, msg=key)


def test_a_graph_may_be_walked_twice():
    found = []
    for plan in ("concat", "checkpoint"):
        model, x = with_plan(network(), plan), images().requires_grad_()
        loss = model(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        found.append((x.grad, *model.buffers()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
