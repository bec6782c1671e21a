"""timm makes densekit's networks by name, and they do what timm's own do."""

import re

import pytest
import torch
from PIL import Image

from densekit.errors import InvalidInput, UnknownName
from densekit.inference.classifier import Classifier
from densekit.models import create_model, model_names
from densekit.weights import load_model, model_folder

timm = pytest.importorskip("timm", reason="needs the extra timm")

import densekit.timm  # noqa: E402 - which needs timm


def test_every_listed_network_is_in_timms_registry() -> None:
    assert {densekit.timm.PREFIX + name for name in model_names()} <= set(timm.list_models("densekit_*"))
    assert set(timm.list_models("densekit_*", pretrained=True)) == {"densekit_densenet_bc_40_12.fashion_mnist"}


@pytest.mark.parametrize("name", ["densenet_bc_22_12", "densenet121", "resnet_20", "preact_resnet_164"])
def test_logits_are_densekits_own(name: str) -> None:
    ours = create_model(name).eval()
    theirs = timm.create_model(f"densekit_{name}").eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, *ours.config.image_size)
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))


def test_another_network_of_the_same_family_is_registered_by_name() -> None:
    assert densekit.timm.register("densenet-bc-16-8") == "densekit_densenet_bc_16_8"
    assert densekit.timm.register("densenet_bc_16_8") == "densekit_densenet_bc_16_8"
    assert timm.create_model("densekit_densenet_bc_16_8").num_features == create_model("densenet_bc_16_8").num_features
    with pytest.raises(UnknownName):
        densekit.timm.register("no_such_net")
    with pytest.raises(InvalidInput, match="timm has its own"):
        densekit.timm.register("timm:resnet18")


def test_timms_settings_are_taken_and_others_refused() -> None:
    _has("densenet_bc_10_8")
    net = timm.create_model("densekit_densenet_bc_10_8", num_classes=7, in_chans=1)
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert (net.num_classes, net.in_chans) == (7, 1)
    assert (net.pretrained_cfg["input_size"], net.pretrained_cfg["num_classes"]) == ((3, 32, 32), 10)
    grown = timm.create_model("densekit_densenet_bc_10_8", growth_rate=4, img_size=16)
    assert grown(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    with pytest.raises(InvalidInput, match="no setting aa_layer"):
        timm.create_model("densekit_densenet_bc_10_8", aa_layer="blurpool")
    with pytest.raises(InvalidInput, match=r"global_pool=.catavgmax.*avgmax"):
        timm.create_model("densekit_densenet_bc_10_8", global_pool="catavgmax")
    with pytest.raises(InvalidInput, match="num_classes=0, too"):
        timm.create_model("densekit_densenet_bc_10_8", global_pool="")


def test_arguments_of_timms_own_densenet_mean_the_same() -> None:
    _has("densenet_bc_10_8")
    name, x = "densekit_densenet_bc_10_8", torch.randn(2, 3, 32, 32)
    lean = timm.create_model(name, memory_efficient=True)
    assert {block.plan for block in lean.features if hasattr(block, "plan")} == {"checkpoint"}
    double = timm.create_model(name, dtype=torch.float64)
    assert double(x.double()).dtype == torch.float64
    empty = timm.create_model(name, device="meta")
    assert {p.device.type for p in empty.state_dict().values()} == {"meta"}
    assert empty(x.to("meta")).shape == (2, 10)
    small = timm.create_model(name, block_config=(1, 2), bn_size=2)
    assert (small.config.blocks, small.config.bottleneck_width) == ((1, 2), 2)
    torch.manual_seed(0)
    wet = timm.create_model(name, drop_rate=0.5).train()
    dry = timm.create_model(name).train()
    dry.load_state_dict(wet.state_dict())
    assert not torch.equal(wet(x), dry(x))
    assert torch.equal(wet.eval()(x), dry.eval()(x))


def test_global_pools_are_timms() -> None:
    _has("densenet_bc_10_8")
    net, x = timm.create_model("densekit_densenet_bc_10_8", global_pool="max").eval(), torch.randn(2, 3, 32, 32)
    features = net.forward_features(x)
    most, mean = features.amax((2, 3)), features.mean((2, 3))
    torch.testing.assert_close(net(x), net.classifier(most))
    for pool, expected in (("avg", mean), ("fast", mean), ("max", most), ("avgmax", (most + mean) / 2)):
        net.reset_classifier(0, pool)
        torch.testing.assert_close(net(x), expected)
    net.reset_classifier(3)  # the last pool stays
    torch.testing.assert_close(net(x), net.classifier((most + mean) / 2))


_SMALL = ("densenet_bc_10_8", "resnet_8", "preact_resnet_20")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("densenet121", "list"), *((name, kind) for name in _SMALL for kind in ("list", "dict", "hook", "fx"))],
)
def test_every_kind_of_feature_extractor_gives_the_same_maps(name: str, kind: str) -> None:
    _has(name)
    whole = timm.create_model(f"densekit_{name}").eval()
    expected = timm.create_model(f"densekit_{name}", features_only=True).eval()
    expected.model.load_state_dict(whole.state_dict(), strict=False)
    net = timm.create_model(f"densekit_{name}", features_only=True, feature_cls=kind).eval()
    # A list and a dict hold the modules of a container under names of their own, a graph all of them.
    for name, tensor in net.state_dict().items():
        name = re.sub(r"^(features|stem|stages|tail)_", r"\1.", name.removeprefix("graph_module."))
        tensor.copy_(whole.state_dict()[name])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = net(x)
        for mine, other in zip(maps.values() if isinstance(maps, dict) else maps, expected(x), strict=True):
            assert (mine - other).abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("indices", [0, -1, 9, (3,), (-4,), [0, 99]])
def test_intermediates_that_are_not_there_are_refused(indices: int | list[int]) -> None:
    _has("densenet_bc_10_8")
    net = timm.create_model("densekit_densenet_bc_10_8").eval()
    with pytest.raises(InvalidInput, match="there are 3"):
        net.forward_intermediates(torch.randn(1, 3, 32, 32), indices=indices)


def test_timms_own_preprocessing_gives_densekits_probabilities() -> None:
    """An image that has to be scaled down: bicubic, timm's default, would give others."""
    net = timm.create_model("densekit_densenet_bc_40_12.fashion_mnist", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    picture = Image.effect_noise((61, 50), 90)
    with torch.no_grad():
        found = net(transform(picture)[None]).softmax(1)[0]
    expected = Classifier.load("fashion-mnist").predict(picture).probabilities
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["densenet_bc_40_12", "densenet_bc_40_12.fashion_mnist", "densenet121", "resnet_20"])
def test_pool_sizes_are_those_of_the_final_features(name: str) -> None:
    net = timm.create_model(f"densekit_{name}").eval()
    cfg = net.pretrained_cfg
    features = net.forward_features(torch.randn(1, net.in_chans, *cfg["input_size"][1:]))
    assert tuple(features.shape[2:]) == cfg["pool_size"]


def test_larger_images_can_be_pooled_at_test_time() -> None:
    from timm.layers import apply_test_time_pool

    net = timm.create_model("densekit_densenet_bc_40_12").eval()
    x = torch.randn(1, 3, 32, 32)
    expected = net(x)
    pooled, applied = apply_test_time_pool(net, {"input_size": (3, 48, 48)})
    assert applied
    torch.testing.assert_close(pooled(x), expected, rtol=1e-4, atol=1e-5)
    assert pooled(torch.randn(1, 3, 48, 48)).shape == (1, 10)


def _has(name: str) -> bool:
    return bool(densekit.timm.register(name))


def test_the_shipped_weights_are_pretrained_by_their_tag() -> None:
    model, card = load_model(model_folder("fashion-mnist"))
    net = timm.create_model("densekit_densenet_bc_40_12.fashion_mnist", pretrained=True).eval()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in model.state_dict().items())
    assert net.pretrained_cfg["label_names"] == card.classes
    assert timm.data.resolve_data_config({}, model=net)["input_size"] == (1, 28, 28)
    plain = timm.create_model("densekit_densenet_bc_40_12")
    assert (plain.in_chans, plain.num_classes) == (3, 10)


def test_the_head_can_be_reset_and_pooling_left_out() -> None:
    _has("densenet_bc_10_8")
    net = timm.create_model("densekit_densenet_bc_10_8").eval()
    x = torch.randn(2, 3, 32, 32)
    net.reset_classifier(4)
    assert net.get_classifier().out_features == net(x).shape[1] == 4
    net.reset_classifier(0)
    assert net(x).shape == (2, net.num_features)
    assert isinstance(net.get_classifier(), torch.nn.Identity)
    net.reset_classifier(0, "")
    assert torch.equal(net(x), net.forward_features(x))
    assert timm.create_model("densekit_densenet_bc_10_8", num_classes=0, global_pool="").eval()(x).dim() == 4


def test_pyramids_are_those_of_timms_own_densenet() -> None:
    """The same weights in timm's densenet121: the same five maps, of the same channels and reductions."""
    theirs = timm.create_model("densenet121", features_only=True).eval()
    whole = timm.create_model("densenet121").eval()
    ours = timm.create_model("densekit_densenet121", features_only=True).eval()
    ours.model.load_state_dict(whole.state_dict())
    theirs.load_state_dict(
        {
            key.replace("features.", "features_", 1): value
            for key, value in whole.state_dict().items()
            if not key.startswith("classifier")
        }
    )
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for mine, peer in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, peer, rtol=1e-4, atol=1e-4)
        final, maps = ours.model.forward_intermediates(x, indices=2)
        torch.testing.assert_close(maps, theirs(x)[-2:], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(final, ours.model.forward_features(x))


@pytest.mark.parametrize("name", ["densenet_bc_22_12", "resnet_20", "preact_resnet_164"])
def test_pyramids_have_the_channels_and_sizes_they_say(name: str) -> None:
    net = timm.create_model(f"densekit_{name}", features_only=True).eval()
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 32, 32))
    found = [(x.shape[1], 32 // x.shape[2]) for x in maps]
    assert found == list(zip(net.feature_info.channels(), net.feature_info.reduction(), strict=True))
    last = timm.create_model(f"densekit_{name}", features_only=True, out_indices=(-1,)).eval()
    assert [x.shape for x in last(torch.randn(1, 3, 32, 32))] == [maps[-1].shape]


def test_checkpointing_is_the_plan_and_changes_no_gradient() -> None:
    _has("densenet_bc_10_8")
    net = timm.create_model("densekit_densenet_bc_10_8").double().train()
    twin = timm.create_model("densekit_densenet_bc_10_8").double().train()
    twin.load_state_dict(net.state_dict())
    twin.set_grad_checkpointing()
    assert {block.plan for block in twin.features if hasattr(block, "plan")} == {"checkpoint"}
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for model in (net, twin):
        model(x).square().sum().backward()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    with pytest.raises(InvalidInput, match="no gradient checkpointing"):
        timm.create_model("densekit_resnet_20").set_grad_checkpointing()


def test_timms_optimizer_groups_parameters_by_depth() -> None:
    """Layer-wise learning rates: the stem first, the head last."""
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(timm.create_model("densekit_densenet_bc_22_12"), layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(create_model("densenet_bc_22_12").parameters()))
    scales = [group["lr_scale"] for group in groups]
    assert scales == sorted(scales)
    assert scales[-1] == 1


@pytest.mark.parametrize("name", [*_SMALL, "densenet121"])
def test_configs_name_the_first_and_the_last_layer_and_sizes_of_the_head(name: str) -> None:
    _has(name)
    net = timm.create_model(f"densekit_{name}", num_classes=42, device="meta")
    state = net.state_dict()
    first, last = (state[net.pretrained_cfg[key] + ".weight"] for key in ("first_conv", "classifier"))
    assert (first.shape[1], tuple(last.shape)) == (net.in_chans, (42, net.head_hidden_size))
    net.reset_classifier(0)
    assert net.num_classes == 0


@pytest.mark.parametrize("classes", [5, 0])
@pytest.mark.parametrize("channels", [1, 3])
def test_pretrained_weights_fit_other_channels_and_classes(channels: int, classes: int) -> None:
    """The first convolution is spread over the channels: a grey image in all of them has the same features."""
    name = "densekit_densenet_bc_40_12.fashion_mnist"
    net = timm.create_model(name, pretrained=True, in_chans=channels, num_classes=classes).eval()
    grey = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        expected = timm.create_model(name, pretrained=True).eval().forward_features(grey)
        torch.testing.assert_close(net.forward_features(grey.expand(2, channels, 28, 28)), expected)
        pyramid = timm.create_model(name, pretrained=True, features_only=True).eval()
        torch.testing.assert_close(pyramid(grey)[-1], expected)
        assert net(grey.expand(2, channels, 28, 28)).shape == (2, classes or net.num_features)


def test_checkpointing_changes_no_answer_and_no_map() -> None:
    _has("densenet_bc_16_8")
    net, x = timm.create_model("densekit_densenet_bc_16_8").eval(), torch.randn(2, 3, 32, 32)
    answer, (final, maps) = net(x), net.forward_intermediates(x)
    net.set_grad_checkpointing()
    found, others = net.forward_intermediates(x)
    for mine, other in zip((net(x), found, *others), (answer, final, *maps), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning:torch")
@pytest.mark.parametrize("name", _SMALL)
def test_settings_of_a_feature_extractor_are_timms_and_its_graph_is_scripted(name: str) -> None:
    _has(name)
    settings = {"feature_cls": "fx", "out_indices": (0, 2)}
    net = timm.create_model(f"densekit_{name}", features_only=True, feature_cfg=settings).eval()
    x = torch.randn(2, 3, 32, 32)
    maps = torch.jit.script(net)(x)
    assert [each.shape[1] for each in maps] == net.feature_info.channels()
    for mine, other in zip(maps, net(x), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", _SMALL)
@pytest.mark.parametrize("part", [None, "classifier", "stage"])
def test_what_timm_freezes_stays_as_it_is_in_training(name: str, part: str | None) -> None:
    """Its batch norms become others, which densekit's plans do not know."""
    _has(name)
    net = timm.create_model(f"densekit_{name}")
    stage = "features.denseblock2" if "dense" in name else "stages.1"
    timm.utils.freeze(net, *([] if part is None else [stage if part == "stage" else part]))
    prefix = {None: "", "stage": f"{stage}.", "classifier": "classifier."}[part]
    before = {key: value.clone() for key, value in net.train().state_dict().items()}
    logits = net(torch.randn(2, 3, 32, 32))
    if part is not None:
        logits.square().sum().backward()
    for key, parameter in net.named_parameters():
        assert (parameter.grad is None) == key.startswith(prefix), key
    for key, value in net.state_dict().items():
        if key.startswith(prefix):
            assert torch.equal(value, before[key]), key
