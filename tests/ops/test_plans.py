"""Every plan computes what the plain form computes: outputs, every gradient, every buffer."""

import copy
import gc
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from densekit import create_model
from densekit.ops import backends

PLANS = ["checkpoint", "shared"]
NETS = [
    "densenet_bc_22_12",
    "densenet_b_16_5",
    "densenet_22_7",
]  # with compression, without, plain layers


def network(name: str = "densenet_bc_22_12", dtype: torch.dtype = torch.float64, **settings: object) -> nn.Module:
    """Random weights, and batch norm statistics and factors that are not 0 and 1."""
    torch.manual_seed(0)
    model = create_model(name, plan="concat", num_classes=7, **settings).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


def with_plan(model: nn.Module, plan: str) -> nn.Module:
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if hasattr(module, "plan"):
            module.plan = plan
    return twin


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*(shape or (3, 3, 13, 12)), generator=torch.Generator().manual_seed(1)).to(dtype)


def everything(
    model: nn.Module, x: Tensor, forward: Callable[[nn.Module, Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Outputs, gradients and buffers after one step."""
    torch.manual_seed(2)
    y = (forward or nn.Module.__call__)(model, x)
    (y * torch.arange(1, 1 + y.shape[1])).square().sum().backward()
    found = {"output": y.detach()}
    if x.requires_grad:
        found["input"] = x.grad
    found |= {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.named_buffers())


def assert_same(model: nn.Module, plan: str, x: Tensor, forward=None, tolerance: float = 1e-10) -> None:
    expected = everything(
        with_plan(model, "concat"),
        x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad),
        forward,
    )
    actual = everything(
        with_plan(model, plan),
        x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad),
        forward,
    )
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().clamp_min(1e-12) if value.is_floating_point() else 1
        assert ((actual[name] - value).abs().max() / scale) <= tolerance, name


def blocks(plan: str, forwards: int = 1) -> int:
    """Of three in a network, what `used` shall count."""
    return 3 * forwards if plan == "shared" else 0


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("name", "training", "dropout", "last"), list(itertools.product(NETS, [True, False], [0.0, 0.3], [True, False]))
)
def test_same_function(plan, name, training, dropout, last, used):
    model = network(name, dropout_rate=dropout).train(training)
    x = images().contiguous(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
    assert_same(model, plan, x)
    assert len(used) == blocks(plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("site", ["conv1x1", "conv3x3", "transition"])
@pytest.mark.parametrize("last", [True, False])
def test_dropout_draws_the_same_masks_at_every_site(plan, site, last, used):
    x = images().contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert_same(network(dropout_rate=0.4, dropout_sites=(site,)), plan, x)
    assert len(used) == blocks(plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("training", [True, False])
def test_convolution_before_pooling(plan, training, used):
    assert_same(network(pool_first=False).train(training), plan, images().requires_grad_())
    assert len(used) == blocks(plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 3, 5, 9), (7, 3, 8, 8)])
def test_odd_sizes(plan, shape, used):
    """The last block of the first sees single pixels."""
    model = network()
    assert_same(model.eval(), plan, images(*shape).requires_grad_())
    if shape[0] > 1:
        assert_same(model.train(), plan, images(*shape).requires_grad_())
    assert len(used) == blocks(plan, 2 if shape[0] > 1 else 1)


@pytest.mark.parametrize("plan", PLANS)
def test_statistics_of_one_value_are_refused_as_torch_refuses_them(plan):
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        with_plan(network(), plan)(images(1, 3, 4, 4))


@pytest.mark.parametrize("plan", PLANS)
def test_input_without_gradient(plan, used):
    assert_same(network(), plan, images())
    assert len(used) == blocks(plan)


@pytest.mark.parametrize("plan", PLANS)
def test_partly_frozen_parameters(plan, used):
    model = network()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 == 0)
    assert_same(model, plan, images().requires_grad_())
    assert len(used) == blocks(plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("share", [1, 2])
def test_frozen_batch_norm(plan, share, used):
    """All of them, or every second, which no longer agree with the others."""
    model = network()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms[::share]:
        norm.eval()
    assert_same(model, plan, images().requires_grad_())
    assert len(used) == (blocks(plan) if share == 1 else 0)


@pytest.mark.parametrize("plan", PLANS)
def test_one_module_twice_in_a_graph(plan, used):
    assert_same(network(), plan, images(), lambda model, x: model(x) + model(x.flip(0) * 2))
    assert len(used) == blocks(plan, 2)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("momentum", [None, 0.03])
def test_momentum(plan, momentum, used):
    model = network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    assert_same(model, plan, images())
    assert len(used) == blocks(plan)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("change", ["eps", "no affine", "no tracking", "parametrised", "elu", "watched"])
def test_what_a_plan_does_not_know_runs_plain(plan, change, used):
    model = network()
    layer = model.features.denseblock1.denselayer2
    match change:
        case "eps":
            layer.norm1.eps = 1e-2
        case "no affine":
            layer.norm2 = nn.BatchNorm2d(layer.norm2.num_features, affine=False, dtype=torch.float64)
        case "no tracking":
            layer.norm1 = nn.BatchNorm2d(layer.norm1.num_features, track_running_stats=False, dtype=torch.float64)
        case "parametrised":
            parametrizations.weight_norm(layer.conv2)
            model.eval()  # behind a batch norm in training its gradient is nothing but rounding
        case "watched":
            layer.conv1.register_forward_hook(lambda module, inputs, output: output * 2)
        case "elu":
            layer.relu1 = nn.ELU()
    assert_same(model, plan, images().requires_grad_())
    assert len(used) == (2 if plan == "shared" else 0)


@pytest.mark.parametrize(
    "path",
    [
        "features",
        "features.denseblock2",
        "features.denseblock2.denselayer1",
        "features.denseblock2.denselayer1.norm2",
        "features.transition1.relu",
        "features.norm5",
    ],
)
def test_hooks_see_what_they_would_see(path):
    """Class activation maps, SHAP and feature extraction hook any module."""
    seen: dict[str, list[Tensor]] = {}
    for plan in ("concat", "shared"):
        model = with_plan(network(), plan)
        module = model.get_submodule(path)
        kept = seen.setdefault(plan, [])
        module.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o.detach()))
        module.register_full_backward_hook(lambda m, i, o, kept=kept: kept.append(o[0].detach()))
        model(images().requires_grad_()).square().sum().backward()
    assert len(seen["shared"]) == 2
    for a, b in zip(seen["concat"], seen["shared"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_features_called_by_themselves():
    """The idiom of torchvision's users: model.features(x)."""
    model = network()
    expected, actual = (with_plan(model, plan).features(images()) for plan in ("concat", "shared"))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_intermediates():
    model = network()
    expected, actual = (with_plan(model, plan).forward_intermediates(images()) for plan in ("concat", "shared"))
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("plan", PLANS)
def test_autocast_changes_nothing(plan, used):
    """Nor in backward, called as it should be, outside."""

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    model, x = network(dtype=torch.float32), images(dtype=torch.float32)
    assert_same(model, plan, x.requires_grad_(), forward, tolerance=0)
    assert not used


def test_a_backward_pass_that_autocast_surrounds_has_the_precision_of_the_forward_pass():
    gradients = []
    for plan in ("concat", "shared"):
        model = with_plan(network(dtype=torch.float32), plan)
        with backends.use("reference"):  # the compiled kernels know no other precision
            loss = model(images(dtype=torch.float32)).square().sum()
        with torch.autocast("cpu", torch.bfloat16):
            loss.backward()
        gradients.append([p.grad for p in model.features.parameters()])
    for expected, actual in zip(*gradients, strict=True):
        assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("plan", [*PLANS, "auto"])
@pytest.mark.parametrize("strict", [False, True])
def test_export(plan, strict):
    model = with_plan(network(dtype=torch.float32), plan).eval()
    program = torch.export.export(model, (images(dtype=torch.float32),), strict=strict)
    torch.testing.assert_close(program.module()(images(dtype=torch.float32)), model(images(dtype=torch.float32)))


# torch's own tracer warns about its own names.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("plan", [*PLANS, "auto"])
def test_a_whole_graph_is_compiled(plan):
    model, x = with_plan(network(dtype=torch.float32), plan).eval(), images(dtype=torch.float32)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-4)


def test_the_default_plan_is_traced_symbolically():
    model, x = with_plan(network(dtype=torch.float32), "auto").eval(), images(dtype=torch.float32)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plan", PLANS)
def test_functional_transforms(plan):
    model, x = network(), images()
    parameters = dict(model.named_parameters())

    def loss(plan: str) -> dict[str, Tensor]:
        twin = with_plan(model, plan).eval()
        return torch.func.grad(lambda p: torch.func.functional_call(twin, p, (x,)).square().sum())(parameters)

    expected, actual = loss("concat"), loss(plan)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batched", ["is_grads_batched", "vmap"])
def test_several_gradients_at_once(batched, used):
    found = []
    for plan in ("concat", "shared"):
        x = images().requires_grad_()
        y = with_plan(network(), plan)(x)
        directions = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)[::5]
        if batched == "vmap":

            def along(v: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
                return torch.autograd.grad(y, x, v, retain_graph=True)[0]

            found.append(torch.func.vmap(along)(directions))
        else:
            found.append(torch.autograd.grad(y, x, directions, is_grads_batched=True)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
    assert len(used) == 3


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_saved_tensors_may_come_back_as_copies(name, training, dtype, used):
    """Without the padding that the kernels read: as from torch.autograd.graph.save_on_cpu."""

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t.clone()):
            return model(x)

    model, x = network(name, dtype).train(training), images(dtype=dtype).requires_grad_()
    twin, other = with_plan(model, "shared"), with_plan(model, "shared")
    expected, actual = everything(twin, x), everything(other, x.detach().clone().requires_grad_(), forward)
    for key, value in expected.items():
        # Not to the bit: BLAS sums in another order where rows are not padded.
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        assert (actual[key] - value).abs().max() <= tolerance * value.abs().max().clamp_min(1e-12), key
    assert len(used) == 6


def test_statistics_of_another_type_are_left_to_torch():
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    model.features.denseblock1.denselayer1.norm1.running_var = torch.ones(24, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        model(images(dtype=torch.float32))


def test_weights_changed_before_backward_are_noticed():
    model = with_plan(network(), "shared")
    loss = model(images()).sum()
    with torch.no_grad():
        model.features.denseblock1.denselayer1.conv1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    assert y.grad_fn is not None
    return sum(storages.values())


def test_shared_saves_less_than_a_quarter_of_the_plain_form():
    model = network("densenet_bc_100_12", torch.float32)
    x = images(2, 3, 32, 32, dtype=torch.float32)
    plain, lean = (saved_bytes(with_plan(model, plan), x) for plan in ("concat", "shared"))
    assert lean < 0.25 * plain


def test_nothing_is_kept_after_backward():
    """No cycle holds the matrices until the collector comes."""
    model = with_plan(network(dtype=torch.float32), "shared")
    x = images(dtype=torch.float32)
    model(x).sum().backward()
    gc.collect()
    gc.disable()
    try:
        before = sum(type(o) is Tensor for o in gc.get_objects())
        model(x).sum().backward()
        assert sum(type(o) is Tensor for o in gc.get_objects()) <= before
    finally:
        gc.enable()


def test_an_input_gradient_keeps_no_more_than_itself():
    for training in (True, False):
        block = with_plan(network(), "shared").train(training).features.denseblock2
        x = images(2, block["denselayer1"].norm1.num_features, 8, 8).requires_grad_()
        block(x).sum().backward()
        assert x.grad.untyped_storage().nbytes() == x.grad.nbytes
