"""timm makes densekit's networks by name, and they do what timm's own do."""

import pytest
import torch

from densekit.errors import InvalidInput, UnknownName
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
    with pytest.raises(InvalidInput, match="global_pool='max'"):
        timm.create_model("densekit_densenet_bc_10_8", global_pool="max")


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
