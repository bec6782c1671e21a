"""What captum, SHAP and their tests do to a network by hooks on its modules: every plan allows it, to the same numbers.

Numbers are of double precision, so that what is equal differs by rounding alone.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from densekit.models import ImageClassifier
from densekit.models.densenet import DenseBlock
from densekit.ops import PLANS
from tests.models.test_attribution import IMAGES, network

X = IMAGES[..., :12, :12].double()
BASELINE = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(2)).double()
TARGET = 1
NETS = [
    *(("densenet_bc_16_8", plan) for plan in PLANS if plan != "auto"),  # which is one of the others
    *((name, "auto") for name in ("densenet_10_8", "resnet_8", "preact_resnet_11")),
]
every = pytest.mark.parametrize(("name", "plan"), NETS)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # captum's, that it hooks ReLUs and needs gradients


def pair(name: str, plan: str) -> tuple[ImageClassifier, ImageClassifier]:
    """A network, and its plain form to compare with."""
    model = network(name, plan).double()
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, DenseBlock):
            module.plan = "concat"
    return model, plain


def leaves(model: nn.Module) -> list[str]:
    """Names of the modules that compute something by themselves, but for the places where there is no dropout."""
    return [
        name for name, module in model.named_modules() if not list(module.children()) and not name.endswith(".drop")
    ]


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9 * float(expected.abs().max()))


@every
def test_a_rescale_rule_by_hooks_adds_up_to_the_change_of_the_logit(name: str, plan: str) -> None:
    """As SHAP's DeepExplainer goes about it: images and baselines in one batch, and gradients replaced at each ReLU."""
    model, _ = pair(name, plan)
    before, maps = model(X), {}

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert module not in maps  # called once
        maps[module] = inputs[0].detach(), output.detach()

    def rescale(module: nn.Module, down: tuple[Tensor], up: tuple[Tensor]) -> tuple[Tensor]:
        entered, left = ((mine - other).repeat(2, 1, 1, 1) for mine, other in (x.chunk(2) for x in maps[module]))
        return (torch.where(entered.abs() < 1e-9, down[0], up[0] * left / entered),)

    handles = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            handles += [module.register_forward_hook(keep), module.register_full_backward_hook(rescale)]
    both = torch.cat((X, BASELINE)).requires_grad_()
    logits = model(both)[:, TARGET]
    (slopes,) = torch.autograd.grad(logits[:2].sum(), both)
    change = logits[:2] - logits[2:]
    assert_near((slopes[:2] * (X - BASELINE)).sum((1, 2, 3)), change.detach())
    for handle in handles:
        handle.remove()
    assert torch.equal(model(X), before)


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, guided: bool) -> Tensor:
        context.save_for_backward(x > 0)
        context.guided = guided
        return x.relu()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (active,) = context.saved_tensors
        return gradient.relu() * (active if context.guided else 1), None


class Rectifier(nn.Module):
    """A ReLU that lets positive gradients pass alone, and, if it is guided, only where it passed its input."""

    def __init__(self, guided: bool) -> None:
        super().__init__()
        self.guided = guided

    def forward(self, x: Tensor) -> Tensor:
        return _Rectified.apply(x, self.guided)


@every
@pytest.mark.parametrize("method", ["GuidedBackprop", "Deconvolution"])
def test_gradients_that_hooks_cut_are_those_of_relus_that_cut_them(name: str, plan: str, method: str) -> None:
    captum = pytest.importorskip("captum.attr", reason="needs the extra analysis")
    model, plain = pair(name, plan)
    for path in leaves(plain):
        if isinstance(plain.get_submodule(path), nn.ReLU):
            plain.set_submodule(path, Rectifier(method == "GuidedBackprop"))
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(plain(x)[:, TARGET].sum(), x)
    for _ in range(2):
        assert_near(getattr(captum, method)(model).attribute(x, target=TARGET), expected)


@every
def test_every_layer_has_the_map_that_autograd_gives_where_parameters_are_frozen(name: str, plan: str) -> None:
    captum = pytest.importorskip("captum.attr", reason="needs the extra analysis")
    model, plain = (each.requires_grad_(False) for each in pair(name, plan))
    for path in leaves(model):
        seen: list[Tensor] = []
        handle = plain.get_submodule(path).register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        logits = plain(X.clone().requires_grad_())
        handle.remove()
        if seen[0].dim() == 4:
            (slopes,) = torch.autograd.grad(logits[:, TARGET].sum(), seen)
            found = captum.LayerGradCam(model, model.get_submodule(path)).attribute(X.clone(), target=TARGET)
            assert_near(found, (slopes.mean((2, 3), keepdim=True) * seen[0]).sum(1, keepdim=True).detach())


@every
@pytest.mark.parametrize("layer", ["first", "last"])
def test_deeplift_of_a_layer_adds_up_for_every_baseline(name: str, plan: str, layer: str) -> None:
    """Of layers that all ways lead through."""
    captum = pytest.importorskip("captum.attr", reason="needs the extra analysis")
    model, _ = pair(name, plan)
    first, last = ("features.transition1", "features.norm5") if "dense" in name else ("stages.0", "stages.2")
    module = model.get_submodule(first if layer == "first" else last)
    found, missing = captum.LayerDeepLiftShap(model, module).attribute(
        X, BASELINE, target=TARGET, return_convergence_delta=True
    )
    assert missing.shape == (4,)
    torch.testing.assert_close(missing, torch.zeros(4).double(), rtol=0, atol=1e-7)
    change = (model(X) - model(BASELINE).mean(0))[:, TARGET]
    torch.testing.assert_close(found.flatten(1).sum(1), change, rtol=1e-6, atol=1e-7)


class Scaled(nn.Module):
    """Another module, with its input or its output times a half."""

    def __init__(self, module: nn.Module, where: str) -> None:
        super().__init__()
        self.module, self.where = module, where

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x * 0.5) if self.where == "input" else self.module(x) * 0.5


def halve(module: nn.Module, where: str) -> Any:
    if where == "input":
        return module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5,))
    return module.register_forward_hook(lambda _, __, output: output * 0.5)


@every
@pytest.mark.parametrize("where", ["input", "output"])
@pytest.mark.parametrize("gradients", [True, False])
def test_what_a_hook_returns_takes_the_place_of_what_a_module_reads_or_gives(
    name: str, plan: str, where: str, gradients: bool
) -> None:
    """As captum ablates the maps of a layer."""
    model, plain = pair(name, plan)
    with torch.set_grad_enabled(gradients):
        whole = model(X)  # what is kept for inference must not hide a later hook
        for path in leaves(model):
            module = plain.get_submodule(path)
            plain.set_submodule(path, Scaled(module, where))
            expected = plain(X)
            plain.set_submodule(path, module)
            handle = halve(model.get_submodule(path), where)
            torch.testing.assert_close(model(X), expected, rtol=1e-8, atol=1e-9, msg=path)
            handle.remove()
        assert torch.equal(model(X), whole)


@every
def test_gradients_of_single_images_can_be_made_of_what_hooks_see(name: str, plan: str) -> None:
    """Of convolutions and the classifier, as captum's tracing of influence and private training do it."""
    model, plain = pair(name, plan)

    def keep(kept: dict[str, Tensor], path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, up: Any) -> None:
            kept[path] = up[0]

        return hook

    entered: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    weighted = {path: m for path, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    for path, module in weighted.items():
        module.register_forward_hook(lambda _, inputs, __, path=path: entered.update({path: inputs[0].detach()}))
        module.register_full_backward_hook(keep(slopes, path))
    model(X).square().sum().backward()
    for i in range(2):
        plain.zero_grad()
        plain(X[i : i + 1]).square().sum().backward()
        for path, module in weighted.items():
            x, up = entered[path][i : i + 1], slopes[path][i : i + 1]
            if isinstance(module, nn.Conv2d):
                geometry = module.stride, module.padding, module.dilation, module.groups
                found = conv2d_weight(x, module.weight.shape, up, *geometry)
            else:
                found = up.T @ x
            expected = plain.get_submodule(path).weight.grad
            assert isinstance(expected, Tensor)
            assert_near(found, expected)


@every
@pytest.mark.parametrize("training", [True, False])
def test_relus_that_are_set_in_place_change_nothing(name: str, plan: str, training: bool) -> None:
    model, plain = pair(name, plan)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    found = []
    for each in (model, plain):
        x = X.clone().requires_grad_()
        logits = each.train(training)(x)
        logits.square().sum().backward()
        final, maps = each.forward_intermediates(X)
        with torch.no_grad():
            found.append([logits, x.grad, *(p.grad for p in each.parameters()), final, *maps, each(X), *each.buffers()])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["densenet_bc_16_8", "densenet_10_8", "resnet_8", "preact_resnet_11"])
@pytest.mark.parametrize("compiler", [torch.jit.script, lambda net: torch.jit.trace(net, X)], ids=["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning:torch")
def test_a_compiled_network_is_explained_alike(name: str, compiler: Callable[[nn.Module], nn.Module]) -> None:
    captum = pytest.importorskip("captum.attr", reason="needs the extra analysis")
    model, _ = pair(name, "auto")
    compiled = compiler(model)
    ways: dict[str, dict[str, Any]] = {
        "Saliency": {},
        "InputXGradient": {},
        "IntegratedGradients": {"baselines": BASELINE, "n_steps": 3},
        "Occlusion": {"sliding_window_shapes": (3, 6, 6), "strides": (3, 6, 6)},
    }
    for way, settings in ways.items():
        found, expected = (
            getattr(captum, way)(each).attribute(X.clone().requires_grad_(), target=TARGET, **settings)
            for each in (compiled, model)
        )
        assert_near(found.detach(), expected.detach())
