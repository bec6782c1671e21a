"""Networks with layers that densekit's DenseNet does not have, or without some that it has."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from densekit import import_model
from densekit.errors import BadWeights
from densekit.weights.foreign.mapping_report import MappingReport
from tests.weights.peers import perturb, torchvisions

State = dict[str, Tensor]
_LAYER = "features.denseblock1.denselayer1"


def _without_final_norm(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "norm5" not in name}


def _group_norms(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if "running" not in name and "tracked" not in name}


def _grouped_layer(state: State) -> State:
    return state | {f"{_LAYER}.conv2.weight": state[f"{_LAYER}.conv2.weight"][:, ::4]}


def _grouped_transition(state: State) -> State:
    return state | {"features.transition1.conv.weight": state["features.transition1.conv.weight"][:, ::2]}


def _squeeze_and_excite(state: State) -> State:
    return state | {f"{_LAYER}.se.fc1.weight": torch.zeros(4, 8), f"{_LAYER}.se.fc2.weight": torch.zeros(8, 4)}


def _normalised_head(state: State) -> State:
    renamed = {name.replace("classifier.", "classifier.1."): tensor for name, tensor in state.items()}
    return renamed | {"classifier.0.weight": torch.ones(34)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_final_norm, "it has no final batch norm; no densekit network"),
        (_group_norms, "no running statistics, as group and instance norms .* no densekit network"),
        (_grouped_layer, r"denselayer1\.conv2\.weight is of a grouped convolution, of 4 groups; no densekit network"),
        (_grouped_transition, r"transition1\.conv\.weight is of a grouped convolution, of 2 groups"),
        (_squeeze_and_excite, r"se\.fc1\.weight, .*se\.fc2\.weight; no densekit network"),
        (_normalised_head, r"classifier\.0\.weight; no densekit network"),
    ],
)
def test_a_network_with_other_layers_is_refused_without_advice_that_cannot_work(
    change: Callable[[State], State], words: str, tmp_path: Path
) -> None:
    state = {name: tensor.contiguous() for name, tensor in change(perturb(torchvisions()).state_dict()).items()}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(BadWeights, match=words) as refused:
        import_model(tmp_path / "weights.pth", tmp_path / "model")
    assert "--ignore" not in str(refused.value)
    assert "fetch" not in str(refused.value)


@pytest.mark.parametrize("wrapper", ["", "model."])
def test_tensors_beside_the_network_may_be_left_out(wrapper: str) -> None:
    account = MappingReport(matched=[f"{wrapper}features.conv0.weight", f"{wrapper}classifier.weight"])
    with pytest.raises(BadWeights, match=f"leave them out: --ignore '{wrapper}aux.weight'"):
        account.set_aside([f"{wrapper}aux.weight"], (), "weights.pth")
