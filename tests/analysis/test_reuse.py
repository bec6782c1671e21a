"""Figure 5: the matrix is the paper's, and each weighting does what it says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from densekit.analysis import reuse
from densekit.analysis.connectivity import blocks_of
from densekit.analysis.image_sample import Sample, untrained
from densekit.config import DenseNetConfig
from densekit.errors import InvalidInput
from densekit.models import DenseNet, create_model
from tests.analysis.conftest import Trained
from tests.narrow import expect_type


def independent(
    state: dict[str, Tensor], entering: int, growth: int, layers: int, block: int, follower: str
) -> NDArray[np.float64]:
    """Fig. 5 from a state dict alone: mean |W| over outputs, the source's channels, and the kernel."""
    edges = [0, *(entering + i * growth for i in range(layers + 1))]
    matrix = np.full((layers + 1, layers + 1), np.nan)
    for target in range(layers + 1):
        key = f"features.denseblock{block}.denselayer{target + 1}.conv1" if target < layers else follower
        weight = state[f"{key}.weight"].double().numpy()
        for source in range(target + 1):
            matrix[source, target] = abs(weight[:, edges[source] : edges[source + 1]]).mean()
    return matrix


def test_the_matrix_is_the_papers(trained: Trained) -> None:
    model, card = trained
    config = expect_type(card.model, DenseNetConfig)
    entering = config.stem_channels
    for block in blocks_of(model):
        layers, last = config.blocks[block.number - 1], block.number == len(config.blocks)
        follower = "classifier" if last else f"features.transition{block.number}.conv"
        expected = independent(model.state_dict(), entering, config.growth_rate, layers, block.number, follower)
        np.testing.assert_allclose(reuse.by_weight(block), expected, rtol=0, atol=1e-6)
        entering = int(config.compression * (entering + layers * config.growth_rate))


def test_gamma_and_weight_are_one_factor(trained: Trained, digits: Sample) -> None:
    """Moving a factor from gamma to the weights leaves the network, and the gamma-weighted form, as they were."""
    model, _ = trained
    blocks = blocks_of(model)
    reader = blocks[1].readers[1]
    before, logits = reuse.by_gamma(blocks[1]), model(digits.images)
    weighed = reuse.by_weight(blocks[1])
    with torch.no_grad():
        for tensor in (reader.norm.weight, reader.norm.bias):
            tensor.mul_(4)
        reader.linear.weight.div_(4)
    torch.testing.assert_close(model(digits.images), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(reuse.by_gamma(blocks[1]), before, rtol=1e-6)
    np.testing.assert_allclose(reuse.by_weight(blocks[1])[:, 1] * 4, weighed[:, 1], rtol=1e-6)


def test_a_map_that_is_always_zero_counts_for_nothing(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    blocks = blocks_of(model)
    reader, source = blocks[0].readers[2], blocks[0].sources[1]
    with torch.no_grad():
        reader.norm.weight[source] = 0
        reader.norm.bias[source] = -1
    found = reuse.by_activation(model, blocks, digits)[0]
    assert found[1, 2] == 0
    assert found[0, 2] > 0


def test_activation_form_is_weight_times_mean_of_what_arrives(trained: Trained, digits: Sample) -> None:
    model, _ = trained
    blocks = blocks_of(model)
    found = reuse.by_activation(model, blocks, Sample(digits.images, digits.targets))
    maps = model.forward_intermediates(digits.images)[1][1]
    for r, reader in enumerate(blocks[1].readers):
        seen = reader.norm(maps[:, : reader.norm.num_features]).relu().mean((0, 2, 3))
        for s, channels in enumerate(blocks[1].sources[: reader.reads]):
            expected = (reader.linear.weight.abs().mean((0, 2, 3))[channels] * seen[channels]).mean()
            assert found[1][s, r] == pytest.approx(expected.item(), rel=1e-4)


def test_the_control_is_the_network_that_the_run_began_with(tiny_run: Path, digits: Sample) -> None:
    from densekit.config import with_settings
    from densekit.runs import run_folder
    from densekit.training.setup import prepare
    from densekit.weights import model_folder, read_card

    recipe = with_settings(run_folder.recipe_of(tiny_run), {"init": None})
    begun = prepare(recipe, tiny_run.parent).model.state_dict()
    control = untrained(read_card(model_folder(tiny_run)), digits, recipe.seed).state_dict()
    for name, tensor in control.items():
        if name.endswith("weight"):
            torch.testing.assert_close(tensor, begun[name].contiguous(), rtol=0, atol=0, msg=name)


def test_the_control_is_normalised(tiny_run: Path, digits: Sample) -> None:
    """With running statistics of zeros and ones, deep maps of an untrained network would be anything."""
    from densekit.weights import model_folder, read_card

    control = expect_type(untrained(read_card(model_folder(tiny_run)), digits), DenseNet)
    normalised = control.features(digits.images)
    assert normalised.mean().abs() < 0.05
    assert (normalised.std((0, 2, 3)) - 1).abs().median() < 0.1


def test_every_densenet_has_its_sources_and_readers() -> None:
    with torch.device("meta"):
        blocks = blocks_of(create_model("densenet121"))
    assert [block.layers for block in blocks] == [6, 12, 24, 16]
    assert [block.sources[-1].stop for block in blocks] == [256, 512, 1024, 1024]
    assert [block.readers[-1].name for block in blocks] == [
        "transition 1",
        "transition 2",
        "transition 3",
        "classifier",
    ]
    assert [block.named(0) for block in blocks] == ["stem", "transition 1", "transition 2", "transition 3"]


@pytest.mark.parametrize("network", [create_model("resnet_20"), nn.Linear(2, 2)], ids=["resnet", "linear"])
def test_a_network_without_dense_blocks_is_refused(network: nn.Module) -> None:
    with pytest.raises(InvalidInput, match="is not a DenseNet"):
        blocks_of(network)
