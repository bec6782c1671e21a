"""The networks are the paper's, and survive what users do to them."""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from densekit import create_model
from densekit.errors import InvalidInput, UnknownName
from densekit.models import DenseNet, config_for
from densekit.models.cost import as_published, cost_of

# Huang et al. 2017, table 1 and the authors' README; MACs with the convolution before the pooling.
PUBLISHED = {
    "densenet_40_12": (1_019_722, 264.8),
    "densenet_100_12": (6_979_642, 1769.5),
    "densenet_100_24": (27_249_082, 6889.3),
    "densenet_bc_100_12": (769_162, 287.9),
    "densenet_bc_250_24": (15_324_406, 5418.8),
    "densenet_bc_190_40": (25_624_430, 9301.9),
    "densenet121": (7_978_856, 2834),
    "densenet169": (14_149_480, 3360),
    "densenet201": (20_013_928, 4291),
    "densenet264": (33_337_704, 5752),
    "densenet161": (28_681_000, 7728),
    "densenet264_k48": (72_686_632, 12851),
    "densenet232_k48": (55_570_984, 10119),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    parameters, macs = PUBLISHED[name]
    cost = cost_of(as_published(config_for(name)))
    assert cost.parameters == parameters
    assert round(cost.macs / 1e6, 1 if macs % 1 else 0) == macs


@pytest.mark.parametrize(
    ("name", "saved"), [("densenet121", 0.082), ("densenet_bc_100_12", 0.092), ("densenet_40_12", 0.141)]
)
def test_pooling_first_saves_what_was_computed_by_hand(name: str, saved: float) -> None:
    config = config_for(name)
    assert 1 - cost_of(config).macs / cost_of(as_published(config)).macs == pytest.approx(saved, abs=6e-4)


@pytest.mark.parametrize(("name", "millions"), [("40_36", 1.5), ("40_48", 2.7), ("40_60", 4.3)])
def test_the_wide_nets_have_the_published_sizes(name: str, millions: float) -> None:
    assert round(cost_of(config_for(f"densenet_bc_{name}")).parameters / 1e6, 1) == millions


def test_names_decide_bottleneck_compression_and_stem_width() -> None:
    facts = {
        name: (c.bottleneck, c.compression, c.stem_channels, c.blocks)
        for name in ("densenet_40_12", "densenet_b_40_12", "densenet_c_40_12", "densenet-bc-40-12")
        if (c := config_for(name)).family == "densenet"
    }
    assert facts == {
        "densenet_40_12": (False, 1.0, 16, (12, 12, 12)),
        "densenet_b_40_12": (True, 1.0, 16, (6, 6, 6)),
        "densenet_c_40_12": (False, 0.5, 16, (12, 12, 12)),
        "densenet-bc-40-12": (True, 0.5, 24, (6, 6, 6)),
    }


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("densenet_bc_101_12", InvalidInput, "use 100 or 106"),
        ("densenet_41_12", InvalidInput, "use 40 or 43"),
        ("densnet121", UnknownName, "did you mean densenet121"),
        ("resnet50", UnknownName, "torchvision:resnet50"),
        ("resnet_21", InvalidInput, "6n + 2"),
    ],
)
def test_wrong_names_are_explained(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        config_for(name)


def small(**settings: Any) -> DenseNet:
    model = create_model("densenet_bc_10_4", **settings)
    assert isinstance(model, DenseNet)
    return model


def test_nothing_is_concatenated_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX INT8 tools fail on a concatenation of one tensor (onnxruntime-inference-examples #84)."""
    sizes = []
    real = torch.cat

    def watched(tensors: Any, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(len(tensors))
        return real(tensors, *args, **kwargs)

    monkeypatch.setattr(torch, "cat", watched)
    create_model("densenet_bc_22_4", plan="concat")(torch.randn(2, 3, 8, 8))
    assert sizes
    assert min(sizes) > 1


def test_hooks_see_what_each_module_made() -> None:
    """In-place ReLU changes what forward hooks kept and breaks backward hooks (torchvision #4164)."""
    model = small().train()
    kept: list[tuple[Tensor, Tensor]] = []
    gradients: list[object] = []
    for module in model.modules():
        module.register_forward_hook(lambda _m, _i, out: kept.append((out, out.detach().clone())))
        module.register_full_backward_hook(lambda _m, _i, out: gradients.append(out))
    model(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
    assert all(torch.equal(now, then) for now, then in kept)
    assert len(gradients) == len(kept) > 40


def test_pool_first_is_the_same_function() -> None:
    x = torch.randn(3, 3, 10, 14, dtype=torch.float64)
    first = small(pool_first=True).double()
    last = small(pool_first=False).double()
    last.load_state_dict(first.state_dict())
    for model in (first, last):
        model(x).square().sum().backward()
    for (name, a), b in zip(first.named_parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12, msg=name)


def test_pooling_waits_for_active_dropout() -> None:
    model = small(dropout_rate=0.5)
    order: list[str] = []
    for name in ("drop", "pool"):
        module = model.features.transition1.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: order.append(name))
    model.train()(torch.randn(2, 3, 8, 8))
    assert order == ["drop", "pool"]
    order.clear()
    model.eval()(torch.randn(2, 3, 8, 8))
    assert order == ["pool"]


def test_dropout_follows_every_convolution_but_the_first() -> None:
    """Huang et al. 2017, sec. 4.2."""

    def count(model: nn.Module, kind: type[nn.Module]) -> int:
        return sum(isinstance(module, kind) for module in model.modules())

    model = create_model("densenet_bc_22_4", dropout_rate=0.2)
    assert count(model, nn.Dropout) == count(model, nn.Conv2d) - 1
    peers = create_model("densenet_bc_22_4", dropout_rate=0.2, dropout_sites=("conv3x3",))
    assert count(peers, nn.Dropout) == 9


@pytest.mark.parametrize(("name", "fan"), [("paper", 16 * 9), ("torchvision", 64 * 9)])
def test_initial_deviation_is_by_fan_out_or_fan_in(name: str, fan: int) -> None:
    model = create_model("densenet_bc_40_16", initialisation=name)
    weight = model.get_submodule("features.denseblock1.denselayer1.conv2").weight
    assert weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.03)
    assert model.get_submodule("classifier").bias.abs().max() == 0


@pytest.mark.parametrize("channels", [1, 7])
def test_any_number_of_input_channels(channels: int) -> None:
    assert small(in_channels=channels)(torch.randn(2, channels, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "minimum"), [("densenet121", 29), ("densenet_bc_10_4", 4)], ids=["imagenet stem", "cifar stem"]
)
def test_the_smallest_image_works_and_one_smaller_is_refused(name: str, minimum: int) -> None:
    model = create_model(name, image_size=minimum, num_classes=2).eval()
    assert model(torch.randn(1, 3, minimum, minimum)).shape == (1, 2)
    with pytest.raises(InvalidInput, match=f"{minimum}x{minimum}"):
        create_model(name, image_size=minimum - 1)


def test_copies_and_pickles_compute_the_same() -> None:
    model, x = small().eval(), torch.randn(2, 3, 8, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


def test_channels_last_and_autocast() -> None:
    model, x = small().eval(), torch.randn(2, 3, 16, 16)
    expected = model(x)
    torch.testing.assert_close(
        model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)), expected
    )
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float(), expected, rtol=0.1, atol=0.1)


def test_an_exported_graph_computes_the_same() -> None:
    model, x = small().eval(), torch.randn(2, 3, 16, 16)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


# torch's own tracer warns about its own names.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_compiled_model_has_the_same_gradients() -> None:
    model, x = small().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    twin = copy.deepcopy(model)
    torch.compile(model, backend="aot_eager")(x).square().sum().backward()
    twin(x).square().sum().backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)


def test_the_two_halves_make_the_whole() -> None:
    model, x = small().eval(), torch.randn(2, 3, 16, 16)
    features = model.forward_features(x)
    final, taken = model.forward_intermediates(x)
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(final, features)
    assert [tuple(t.shape[1:]) for t in taken] == [(12, 16, 16), (10, 8, 8), (9, 4, 4)]
    assert len(model.forward_intermediates(x, [-1])[1]) == 1
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)


def test_a_new_head_has_the_new_classes() -> None:
    model = small()
    model.reset_classifier(3)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)
    assert model.config.num_classes == 3


@pytest.mark.parametrize("name", ["densenet_bc_16_8", "resnet_8", "torchvision:resnet18"])
def test_intermediates_are_indexed_as_lists_are(name: str) -> None:
    model, x = create_model(name).eval(), torch.randn(1, 3, 32, 32)
    _, every = model.forward_intermediates(x)
    count = len(every)
    for index in (0, count - 1, -1, -count):
        _, (only,) = model.forward_intermediates(x, [index])
        assert torch.equal(only, every[index])
    for index in (count, -count - 1, 99):
        with pytest.raises(InvalidInput, match=f"index {index} is out of range.*there are {count}"):
            model.forward_intermediates(x, [index])
