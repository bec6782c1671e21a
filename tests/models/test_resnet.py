"""The baselines are the networks of He et al. 2016, 2016b and Huang et al. 2016, to the parameter."""

import copy

import pytest
import torch
from torch import nn

from densekit.config import ResNetConfig
from densekit.errors import InvalidInput
from densekit.models import build, config_for, create_model
from densekit.models.cost import cost_of
from densekit.models.resnet import PlainBlock, PreactivatedBlock


def plain_parameters(n: int, classes: int = 10) -> int:
    """He et al. 2016, sec. 4.2, added up: n blocks a stage, a batch norm of two vectors after each convolution."""
    total = 3 * 16 * 9 + 2 * 16
    for before, width in ((16, 16), (16, 32), (32, 64)):
        total += before * width * 9 + (2 * n - 1) * width * width * 9 + 2 * n * 2 * width
    return total + 64 * classes + classes


def preactivated_parameters(n: int, classes: int = 10) -> int:
    """He et al. 2016b: each convolution after a batch norm of its own input; one projection a stage."""
    total = 3 * 16 * 9
    before = 16
    for width in (16, 32, 64):
        wide = 4 * width
        for i in range(n):
            total += 2 * before + before * width  # 1x1 down
            total += 2 * width + width * width * 9
            total += 2 * width + width * wide  # 1x1 up
            total += before * wide if i == 0 else 0
            before = wide
    return total + 2 * before + before * classes + classes


@pytest.mark.parametrize(
    ("depth", "published"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_plain_nets_have_the_published_parameters(depth: int, published: int) -> None:
    """0.27 M, 0.46 M, 0.66 M, 0.85 M and 1.7 M in table 6: only the shortcut without parameters gives them."""
    cost = cost_of(config_for(f"resnet_{depth}"))
    assert cost.parameters == plain_parameters((depth - 2) // 6) == published
    assert cost.depth == depth


@pytest.mark.parametrize(("depth", "published"), [(164, 1_703_258), (1001, 10_327_706)])
def test_preactivated_nets_have_the_published_parameters(depth: int, published: int) -> None:
    """1.7 M and 10.3 M in He et al. 2016b (10.2 M in the DenseNet paper); projections are not on the depth's path."""
    cost = cost_of(config_for(f"preact_resnet_{depth}"))
    assert cost.parameters == preactivated_parameters((depth - 2) // 9) == published
    assert cost.depth == depth


def test_resnet_20_has_the_published_multiplications() -> None:
    """Added up: stem, seven convolutions at 32x32 and so on; the first of a stage reads half the maps."""
    stem, head = 3 * 16 * 9 * 1024, 640
    same = 16 * 16 * 9 * 1024  # every convolution inside a stage, as maps double when pixels fall to a quarter
    assert cost_of(config_for("resnet_20")).macs == stem + 6 * same + 2 * (same // 2 + 5 * same) + head


def test_a_bottleneck_strides_in_its_first_convolution() -> None:
    """As the authors' Torch code (resnet-1k-layers); torchvision strides in the 3x3."""
    block = build(ResNetConfig(name="r", depth=20, bottleneck=True, preactivation=True)).stages[1][0]
    strides = [conv.stride[0] for conv in block.branch if isinstance(conv, nn.Conv2d)]
    assert strides == [2, 1, 1]
    assert block.shortcut.stride == (2, 2)


def test_the_plain_shortcut_subsamples_and_pads_with_zero() -> None:
    """Option A; with the branch silenced only the shortcut is left."""
    block = build(ResNetConfig(name="r", depth=8)).stages[1][0]
    nn.init.zeros_(block.branch.norm2.weight)
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    torch.testing.assert_close(y[:, :16], x[:, :, ::2, ::2], rtol=0, atol=0)
    assert not y[:, 16:].any()


def test_projection_reads_the_shared_preactivation() -> None:
    """He et al. 2016b's code: one BN-ReLU feeds the branch and the projection."""
    block = build(ResNetConfig(name="r", depth=11, bottleneck=True, preactivation=True)).stages[0][0].eval()
    nn.init.zeros_(block.branch.conv3.weight)
    nn.init.normal_(block.norm.bias)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(block(x), block.shortcut(torch.relu(block.norm(x))), rtol=0, atol=0)
    assert block(-10 * x.abs()).isfinite().all()


def test_survival_decays_linearly() -> None:
    """Huang et al. 2016, eq. 4, for 54 blocks: almost 1 at the first, one half at the last."""
    model = create_model("stochastic_depth_resnet_110")
    rates = [block.drop.p for block in model.modules() if isinstance(block, PlainBlock)]
    assert rates == pytest.approx([number / 54 / 2 for number in range(1, 55)])


def test_a_dropped_branch_keeps_its_expectation() -> None:
    """Evaluation needs no factor: in training a kept branch is divided by its survival, sample by sample."""
    block = build(ResNetConfig(name="r", depth=8, survival=0.5)).stages[-1][-1].train()
    branch = torch.ones(20_000, 1, 1, 1)
    dropped = block.drop(branch)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert block.eval().drop(branch) is branch


def test_only_training_is_stochastic() -> None:
    model = build(ResNetConfig(name="r", depth=20, survival=0.5))
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(model.eval()(x), model(x), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model(x), model(x))


def test_initialisation_is_fan_out() -> None:
    """He's code: N(0, sqrt(2 / (kh*kw*out))), and a head without bias at the start."""
    model = create_model("resnet_20")
    conv = model.stages[2][0].branch.conv1  # 32 -> 64 maps, so that fan-in would differ
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert not model.classifier.bias.any()


@pytest.mark.parametrize(
    ("config", "maps"),
    [
        (ResNetConfig(name="plain", depth=14), (16, 32, 64)),
        (ResNetConfig(name="bottleneck", depth=20, bottleneck=True), (64, 128, 256)),
        (ResNetConfig(name="preactivated", depth=14, preactivation=True), (16, 32, 64)),
        (ResNetConfig(name="both", depth=20, bottleneck=True, preactivation=True, in_channels=1), (64, 128, 256)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_interface(config: ResNetConfig, maps: tuple[int, ...]) -> None:
    """The two halves make the whole, the stages fall in resolution, the head can be replaced."""
    model = build(config).eval()
    x = torch.randn(2, config.in_channels, 18, 22)
    final, stages = model.forward_intermediates(x)
    sizes = [(18, 22), (9, 11), (5, 6)]
    assert [tuple(s.shape) for s in stages] == [(2, m, *size) for m, size in zip(maps, sizes, strict=True)]
    assert final.min() >= 0
    assert final.shape[1] == model.num_features == maps[-1]
    torch.testing.assert_close(model.forward_features(x), final, rtol=0, atol=0)
    torch.testing.assert_close(model(x), model.forward_head(final), rtol=0, atol=0)
    assert torch.equal(model.forward_intermediates(x, [-1])[1][0], stages[-1])
    pooled = model.forward_head(final, pre_logits=True)
    torch.testing.assert_close(pooled, final.mean((2, 3)))
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.config.num_classes == 3
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)


@pytest.mark.parametrize("preactivation", [False, True])
def test_no_module_works_in_place(preactivation: bool) -> None:
    """Saliency tools hang full backward hooks on every module; in-place ReLUs make autograd refuse them."""
    model = build(ResNetConfig(name="r", depth=14, preactivation=preactivation, survival=0.5))
    seen: set[nn.Module] = set()
    for module in model.modules():
        module.register_full_backward_hook(lambda module, *_: seen.add(module))
    model(torch.randn(2, 3, 8, 8, requires_grad=True)).sum().backward()
    used = {m for m in model.modules() if not isinstance(m, nn.ModuleList) and (not isinstance(m, nn.Sequential) or m)}
    assert used <= seen


def test_copies_are_independent_and_equal() -> None:
    model = build(ResNetConfig(name="r", depth=8, preactivation=True)).eval()
    twin = copy.deepcopy(model)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(x), twin(x), rtol=0, atol=0)
    nn.init.zeros_(twin.classifier.weight)
    assert model(x).any()


def test_export_round_trip_is_equal_to_eager() -> None:
    model = build(ResNetConfig(name="r", depth=8, survival=0.5)).eval()
    x = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_too_small_an_image_names_the_fix() -> None:
    with pytest.raises(InvalidInput, match=r"3x32 is too small for resnet_20.*--image-size 4"):
        create_model("resnet_20", image_size=(3, 32))


def test_preactivation_adds_blocks_of_its_kind() -> None:
    kinds = [
        {type(b) for b in build(ResNetConfig(name="r", depth=8, preactivation=p)).stages[0]} for p in (True, False)
    ]
    assert kinds == [{PreactivatedBlock}, {PlainBlock}]
