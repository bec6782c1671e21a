"""What is not the paper's block, however it was changed, runs module by module: no plan changes what is computed."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.flop_counter import FlopCounterMode

from densekit.models.densenet import DenseBlock, DenseLayer, Transition
from densekit.ops import guards, inference, shared
from tests.ops.test_plans import PLANS, images, network, with_plan


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts blocks that ran as one, in training or in inference."""
    calls: list[int] = []
    for module in (shared, inference):

        def run(*arguments: object, real: Callable[..., Tensor] = module.run) -> Tensor:
            calls.append(1)
            return real(*arguments)

        monkeypatch.setattr(module, "run", run)
    return calls


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class Damped(DenseLayer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.1


class LateRectifier(DenseLayer):
    def after_conv1(self, x: Tensor) -> Tensor:
        return super().after_conv1(x).relu()


def layer(model: nn.Module) -> DenseLayer:
    return model.features.denseblock1.denselayer2


def conv(model: nn.Module, name: str = "conv2", **settings: object) -> None:
    old = getattr(layer(model), name)
    geometry = {"kernel_size": old.kernel_size, "padding": old.padding, "bias": False} | settings
    torch.manual_seed(1)
    setattr(layer(model), name, nn.Conv2d(old.in_channels, old.out_channels, **geometry, dtype=old.weight.dtype))


def patched(module: nn.Module, name: str = "forward") -> None:
    original = getattr(module, name)
    setattr(module, name, lambda *arguments: original(*arguments) * 3)


def dilated(model: nn.Module) -> None:
    layer(model).conv2.dilation = layer(model).conv2.padding = (2, 2)


def narrower(model: nn.Module) -> None:
    """A bottleneck pruned to fewer maps than its neighbours'."""
    one = layer(model)
    dtype = one.conv1.weight.dtype
    one.conv1.weight = nn.Parameter(one.conv1.weight.detach()[:32].clone())
    one.norm2 = nn.BatchNorm2d(32, dtype=dtype).train(one.training)
    one.conv2.weight = nn.Parameter(one.conv2.weight.detach()[:, :32].clone())


def uncounted(model: nn.Module) -> None:
    layer(model).norm1.num_batches_tracked = None


def plain_weights(model: nn.Module) -> None:
    """As DataParallel's replicas have them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module._parameters.pop("weight")
            module.weight = weight * 1


def wrapped_layer(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        model.features.denseblock1["denselayer2"] = wrap(layer(model))

    return change


def as_class(kind: type[nn.Module]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        layer(model).__class__ = kind

    return change


def doubled_block(model: nn.Module) -> None:
    block = model.features.denseblock1

    class Doubled(type(block)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    block.__class__ = Doubled


def transition(**modules: nn.Module) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for name, module in modules.items():
            setattr(model.features.transition1, name, copy.deepcopy(module))

    return change


def pools_up(model: nn.Module) -> None:
    model.features.transition1.pool.ceil_mode = True


# What is done to a network, and how many of its three blocks still run as one.
SURGERY: dict[str, tuple[Callable[[nn.Module], object], int]] = {
    "nothing": (lambda model: None, 3),
    "dilation": (dilated, 2),
    "circular padding": (lambda model: conv(model, padding_mode="circular"), 2),
    "5x5": (lambda model: conv(model, kernel_size=5, padding=2), 2),
    "1x1": (lambda model: conv(model, kernel_size=1, padding=0), 2),
    "groups": (lambda model: conv(model, groups=4), 2),
    "3x3 bottleneck": (lambda model: conv(model, "conv1", kernel_size=3, padding=1), 2),
    "a bias": (lambda model: conv(model, bias=True), 2),
    "no ReLU": (lambda model: setattr(layer(model), "relu1", nn.Identity()), 2),
    "a ReLU for dropout": (lambda model: setattr(layer(model), "drop2", nn.ReLU()), 2),
    "another width": (narrower, 2),
    "one module more": (lambda model: layer(model).add_module("more", nn.Identity()), 2),
    "uncounted batches": (uncounted, 2),
    "conv1.forward": (lambda model: patched(layer(model).conv1), 2),
    "norm2.forward": (lambda model: patched(layer(model).norm2), 2),
    "layer.forward": (lambda model: patched(layer(model)), 2),
    "layer.after_conv1": (lambda model: patched(layer(model), "after_conv1"), 2),
    "a layer's subclass": (as_class(Damped), 2),
    "a subclass's after_conv1": (as_class(LateRectifier), 2),
    "a block's subclass": (doubled_block, 3),
    "transition.forward": (lambda model: patched(model.features.transition1), 3),
    "transition.reduce": (lambda model: patched(model.features.transition1, "reduce"), 3),
    "no pool": (transition(pool=nn.Identity()), 3),
    "a maximum": (transition(pool=nn.MaxPool2d(2)), 3),
    "pool of 3": (transition(pool=nn.AvgPool2d(3, 2, 1)), 3),
    "pool up": (pools_up, 3),
    "ELU": (transition(relu=nn.ELU()), 3),
    "a sigmoid in the transition": (transition(drop=nn.Sigmoid()), 3),
    "no parameters": (plain_weights, 0),
    "a wrapped layer": (wrapped_layer(Wrapper), 2),
    "a checkpointed layer": (wrapped_layer(checkpoint_wrapper), 2),
    "a compiled layer": (wrapped_layer(lambda module: torch.compile(module, backend="eager")), 2),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("change", SURGERY)
@pytest.mark.parametrize("mode", ["training", "evaluation", "inference", "inference again"])
def test_surgery_changes_every_plan_alike(plan, change, mode, used):
    """Again: on a network that has run before, and whose blocks are known."""
    edit, blocks = SURGERY[change]
    inferring = mode.startswith("inference")
    dtype = torch.float32 if inferring else torch.float64
    model = network(dtype=dtype).train(mode == "training")
    x = images(3, 3, 15, 14, dtype=dtype)
    found = []
    for each in ("concat", plan):
        twin = with_plan(model, each)
        with torch.set_grad_enabled(not inferring):
            if mode == "inference again":
                twin(x)
            edit(twin)
            used.clear()
            found.append(twin(x).detach())
    tolerance = 1e-4 if inferring else 1e-10
    torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=tolerance * float(found[0].abs().max()))
    assert len(used) == (blocks if plan == "shared" else 0)


@pytest.mark.parametrize("kind", [DenseLayer, DenseBlock, Transition])
def test_a_class_that_is_patched_after_its_networks_were_built_does_what_it_was_patched_to(kind, monkeypatch, used):
    model = network().eval()
    real = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: real(self, x) * 3)
    expected, actual = (with_plan(model, plan)(images()) for plan in ("concat", "shared"))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert len(used) == (0 if kind is DenseLayer else 3)


@pytest.mark.parametrize("name", ["", "norm1", "relu2", "conv1"])
def test_a_hook_on_a_network_that_has_run_before_is_called(name):
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    calls: list[int] = []
    with torch.inference_mode():
        model(images(dtype=torch.float32))
        handle = layer(model).get_submodule(name).register_forward_hook(lambda *_: calls.append(1))
        model(images(dtype=torch.float32))
        assert calls == [1]
        handle.remove()
        model(images(dtype=torch.float32))
    assert calls == [1]


def test_dropout_that_is_switched_on_later_drops():
    """As Monte Carlo dropout does it."""
    model = with_plan(network(dtype=torch.float32), "shared").eval()
    x = images(dtype=torch.float32)
    layer(model).drop2 = nn.Dropout(0.5).eval()
    with torch.inference_mode():
        assert torch.equal(model(x), model(x))
        layer(model).drop2.train()
        assert not torch.equal(model(x), model(x))


def put(name: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model.features, name, make(model.features.get_submodule(name)))


REMODELLED: dict[str, Callable[[nn.Module], object]] = {
    "nothing": lambda model: None,
    "a wrapped block": put("denseblock3", Wrapper),
    "a wrapped transition": put("transition1", Wrapper),
    "a compiled block": put("denseblock2", lambda module: torch.compile(module, backend="eager")),
    "no last norm": lambda model: delattr(model.features, "norm5"),
    "an identity for the last norm": put("norm5", lambda module: nn.Identity()),
    "two norms": lambda model: model.features.add_module("more", copy.deepcopy(model.features.norm5)),
    "something behind": lambda model: model.features.add_module("more", nn.Sigmoid()),
    "a negative end": lambda model: model.features.add_module("more", nn.LogSigmoid()),
    "ends in a transition": lambda model: [delattr(model.features, name) for name in ("denseblock3", "norm5")],
    "no transition between": lambda model: (
        delattr(model.features, "norm5") or put("transition2", lambda m: m.norm)(model)
    ),
    "another container": lambda model: setattr(model, "features", Wrapper(model.features)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("plan", ["concat", *PLANS])
@pytest.mark.parametrize("change", REMODELLED)
def test_features_are_those_of_the_modules_in_order(plan, change):
    model = with_plan(network(), plan).eval()
    if change == "no transition between":
        model.features.denseblock3 = nn.Identity()
    REMODELLED[change](model)
    torch.testing.assert_close(
        model.forward_features(images()), model.features(images()).relu(), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("site", ["conv1x1", "conv3x3", "transition"])
@pytest.mark.parametrize("gradients", [True, False])
def test_dropout_alone_may_be_in_training(plan, site, gradients):
    """Monte Carlo dropout: the network in evaluation, its dropouts not."""
    model = network(dtype=torch.float32, dropout_rate=0.5, dropout_sites=(site,)).eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    found = []
    for each in ("concat", plan):
        torch.manual_seed(5)
        with torch.set_grad_enabled(gradients):
            found.append(with_plan(model, each)(images(dtype=torch.float32)).detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
    assert not torch.equal(with_plan(model, plan)(images(dtype=torch.float32)), found[1])


@pytest.mark.parametrize("channels", [20, 30])
@pytest.mark.parametrize("gradients", [True, False])
def test_another_number_of_channels_is_refused_as_torch_refuses_it(channels, gradients):
    block = with_plan(network(), "shared").eval().features.denseblock1
    with pytest.raises(RuntimeError, match=f"should contain {channels} elements"), torch.set_grad_enabled(gradients):
        block(images(2, channels, 8, 8))


@pytest.mark.parametrize("gradients", [True, False])
def test_maps_too_small_for_the_pool_are_refused_as_torch_refuses_them(gradients):
    with pytest.raises(RuntimeError, match="Output size is too small"), torch.set_grad_enabled(gradients):
        with_plan(network(), "shared").eval().forward_features(images(2, 3, 3, 3))


# torch's own module of derivatives warns about its own names.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dual", ["input", "weight"])
def test_forward_mode_derivatives_are_kept(dual):
    model, x = with_plan(network(), "shared").eval(), images()
    tangents = []
    for plan in ("concat", "shared"):
        twin = with_plan(model, plan)
        conv1 = twin.features.denseblock1.denselayer1.conv1
        with torch.no_grad(), forward_ad.dual_level():
            if dual == "weight":
                weight = conv1._parameters.pop("weight").detach()
                conv1._parameters["weight"] = forward_ad.make_dual(weight, torch.ones_like(weight))
            y = twin(forward_ad.make_dual(x, torch.ones_like(x)) if dual == "input" else x)
            tangents.append(forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(tangents[1], tangents[0], rtol=1e-9, atol=1e-9)


def test_counters_of_operations_see_them():
    counts = []
    for plan in ("concat", "shared"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            with_plan(network(dtype=torch.float32), plan).eval()(images(dtype=torch.float32))
        counts.append(counter.get_total_flops())
    assert counts[1] == counts[0] > 0


@pytest.mark.parametrize("where", ["input", "weight", "gradient"])
def test_lazily_negated_tensors_are_negated(where):
    found = []
    for plan in ("concat", "shared"):
        block = with_plan(network(), plan).eval().features.denseblock1.float()
        x = images(2, 24, 8, 8, dtype=torch.float32).requires_grad_()
        conv2 = block["denselayer2"].conv2
        if where == "weight":
            conv2.weight = nn.Parameter(torch._neg_view(conv2.weight.detach()))
        y = block(torch._neg_view(x) if where == "input" else x)
        dy = images(*y.shape, dtype=torch.float32)
        y.backward(torch._neg_view(dy) if where == "gradient" else dy)
        found.append((y.detach(), x.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_weights_elsewhere_or_of_another_type_do_not_reach_the_kernels(used):
    for change in (lambda w: torch.empty_like(w, device="meta"), lambda w: TwoTensor(w, w.clone())):
        model = with_plan(network(dtype=torch.float32), "shared")
        layer(model).conv2.weight = nn.Parameter(change(layer(model).conv2.weight.detach()))
        assert not guards.can_run(
            images(2, 24, 8, 8, dtype=torch.float32), model.features.denseblock1.layers(), torch.float32
        )
    assert not used


def test_a_default_device_is_not_where_the_kernels_keep_their_sums(used):
    model, x = with_plan(network(dtype=torch.float32), "shared"), images(dtype=torch.float32)
    expected = with_plan(model, "shared")(x)
    used.clear()
    with torch.device("meta"):
        model(x).sum().backward()
        actual = with_plan(model, "shared")(x)
    assert actual.device.type == "cpu"
    assert actual.shape == expected.shape
    assert len(used) == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_plain(dtype, used):
    model, x = network(dtype=dtype), images(dtype=dtype)
    assert torch.equal(with_plan(model, "shared")(x), with_plan(model, "concat")(x))
    assert not used


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("where", ["block", "features", "forward_features"])
def test_an_output_may_be_changed_in_place(last, training, where, used):
    model = with_plan(network(dtype=torch.float32), "shared").train(training)
    channels = 24 if where == "block" else 3
    x = images(2, channels, 8, 8, dtype=torch.float32).requires_grad_()
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    call = model.features.denseblock1 if where == "block" else getattr(model, where)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y = call(x)
        y.mul_(2)
        if grad:
            y.sum().backward()
    assert used


@pytest.mark.parametrize("last_input", [True, False])
@pytest.mark.parametrize("last_weights", [True, False])
@pytest.mark.parametrize("arrangement", ["dense", "slice"])
def test_dropout_draws_in_the_order_of_memory(last_input, last_weights, arrangement, used):
    """Which is channels_last if the images or the weights are: masks of a block called by itself are torch's."""
    formats = {True: torch.channels_last, False: torch.contiguous_format}
    model = network(dropout_rate=0.5).to(memory_format=formats[last_weights])
    found = []
    for plan in ("concat", "shared"):
        x = images(2, 30, 8, 8).contiguous(memory_format=formats[last_input])
        x = x[:, 3:27] if arrangement == "slice" else x[:, :24].contiguous(memory_format=formats[last_input])
        torch.manual_seed(0)
        found.append(with_plan(model, plan).features.denseblock1(x))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    assert len(used) == (1 if last_input or not last_weights else 0)


def test_hooks_on_all_modules_see_all_of_them():
    seen: dict[str, list[str]] = {}
    for plan in ("concat", "shared"):
        kept = seen.setdefault(plan, [])
        handle = nn.modules.module.register_module_forward_hook(
            lambda m, i, o, kept=kept: kept.append(type(m).__name__)
        )
        try:
            with_plan(network(), plan)(images())
        finally:
            handle.remove()
    assert seen["shared"] == seen["concat"]
