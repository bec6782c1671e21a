"""Not-a-number and infinity go through the compiled plan where they go through torch's own operators."""

import pytest
import torch
from torch import Tensor, nn

from densekit.ops import backends
from densekit.ops.backends.cpu import library
from tests.ops.test_plans import images, network, with_plan

pytestmark = [
    pytest.mark.skipif(not library.available(), reason="no compiler was there at installation"),
    pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf]),
    pytest.mark.parametrize("pixel", [(0, 0), (6, 5), (12, 11)], ids=str),  # of 13 x 12: by the border and far from it
]
NETS = ["densenet_bc_22_12", "densenet_b_16_5", "densenet_22_7"]


def parts(name: str, plan: str, training: bool) -> tuple[nn.Module, nn.Module]:
    """The stem and the first block, without an epilogue; and the whole network, whose blocks have one."""
    model = with_plan(network(name, torch.float32), plan).train(training)
    return nn.Sequential(model.features[0], model.features.denseblock1), model


def poisoned(value: float, pixel: tuple[int, int]) -> Tensor:
    x = images(3, 3, 13, 12, dtype=torch.float32)
    x[1, 1, *pixel] = value
    return x


def after_backward(model: nn.Module, x: Tensor, dy: Tensor | None = None) -> dict[str, Tensor]:
    y = model(x.requires_grad_())
    y.backward(y.detach() * 2 if dy is None else dy)
    return {"output": y.detach(), "input": x.grad} | {name: p.grad for name, p in model.named_parameters()}


def kinds(x: Tensor) -> Tensor:
    """0 where finite, 1 or -1 where infinite, 2 where not a number."""
    return torch.where(x.isnan(), 2, x.isinf() * x.sign().nan_to_num()).int()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
def test_a_bad_pixel_spoils_what_it_spoils_in_torch(name, training, value, pixel):
    for plain, fused in zip(parts(name, "concat", training), parts(name, "shared", training), strict=True):
        expected, actual = (after_backward(model, poisoned(value, pixel)) for model in (plain, fused))
        for key, truth in expected.items():
            assert torch.equal(kinds(actual[key]), kinds(truth)), key
    # The network's output knows no pixels: in training no image is spared, in evaluation the others are.
    assert actual["output"].isfinite().any(1).tolist() == [not training, False, not training]


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", NETS)
def test_a_bad_map_spoils_no_gradient_that_does_not_depend_on_it(name, dropout, kernels, value, pixel):
    """By fixed statistics a batch norm's own gradient is a product that its input has no part in."""
    results = []
    for plan in ("concat", "shared"):
        block = parts(name, plan, training=False)[0][1]
        for layer in block.values():
            layer.drop1, layer.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)
        torch.manual_seed(3)
        x = images(3, block.denselayer1.norm1.num_features, 13, 12, dtype=torch.float32)
        x[1, 1, *pixel] = value
        dy = images(3, block.out_channels, 13, 12, dtype=torch.float32)
        with backends.use(kernels):
            results.append(after_backward(block, x, dy))
    expected, actual = results
    for key, truth in expected.items():
        assert torch.equal(kinds(actual[key]), kinds(truth)), key
    assert actual["input"].isfinite().all()


@pytest.mark.parametrize("name", NETS)
def test_in_inference(name, value, pixel):
    for plain, fused in zip(parts(name, "concat", False), parts(name, "shared", False), strict=True):
        with torch.inference_mode():
            expected, actual = (model(poisoned(value, pixel)) for model in (plain, fused))
        assert not expected.isfinite().all()
        assert torch.equal(kinds(actual), kinds(expected))


def test_in_training_every_map_that_a_block_adds_is_lost(value, pixel):
    """Batch statistics carry it to all images and pixels."""
    block, _ = parts("densenet_bc_22_12", "shared", training=True)
    y = block(poisoned(value, pixel))
    added = y[:, block[0].out_channels :]
    assert added.isnan().all()


@pytest.mark.parametrize("training", [True, False])
def test_a_bad_gradient_spoils_what_it_spoils_in_torch(training, value, pixel):
    """But for taps of a 3x3 kernel that meet it at the border alone: torch leaves zeros out, here 0 * NaN counts."""
    results = []
    for plan in ("concat", "shared"):
        block = parts("densenet_bc_22_12", plan, training)[0]
        x = images(3, 3, 13, 12, dtype=torch.float32)
        dy = torch.randn(3, block[1].out_channels, 13, 12, generator=torch.Generator().manual_seed(4))
        dy[1, -1, *pixel] = value
        results.append(after_backward(block, x, dy))
    expected, actual = results
    for key, truth in expected.items():
        if key.endswith("conv2.weight"):
            # No kernel is lost of which torch loses nothing.
            assert (actual[key].isfinite() <= truth.isfinite()).all(), key
            assert torch.equal(actual[key].isfinite().all((2, 3)), truth.isfinite().all((2, 3))), key
        elif not key.startswith("0."):  # the stem is torch's
            assert torch.equal(actual[key].isfinite(), truth.isfinite()), key
