"""--init SOURCE: weights to start from."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densekit.config import DenseNetConfig, ModelConfig
from densekit.errors import BadWeights, UnknownName
from densekit.formatting import counted
from densekit.models import ImageClassifier
from densekit.optional_packages import import_package
from densekit.weights.folder import load_state, read_card, read_tensors
from densekit.weights.resolve import model_folder
from densekit.weights.shapes import head_of, stem_of
from densekit.weights.torchvision_files import load_torchvision


class Start(NamedTuple):
    """What a source did not fill as it was."""

    new: tuple[str, ...]
    """Names of tensors that stay as they were initialised: a head for other classes."""
    adapted: tuple[str, ...]
    """What was done to a first convolution for another number of channels."""


def start_from(model: ImageClassifier, config: ModelConfig, source: str, classes: tuple[str, ...]) -> Start:
    """Loads SOURCE, a MODEL, torchvision:NAME or timm:NAME, into `model`, which was built from `config`.

    The head stays as it is unless SOURCE knows the same classes; a first convolution for other channels is adapted.
    Raises BadWeights for anything else unmatched.
    """
    library, colon, name = source.partition(":")
    if colon and library in _LIBRARIES:
        _same_function(_THEIR_DENSENETS, config, source)
        state, same_classes = dict(_LIBRARIES[library](name)), False
    else:
        folder = model_folder(source)
        card = read_card(folder)
        if isinstance(card.model, DenseNetConfig):
            _same_function(card.model.model_dump(include=set(_THEIR_DENSENETS)), config, source)
        state, same_classes = read_tensors(folder, card), card.classes == classes
    new = () if same_classes else head_of(config)
    own = model.state_dict()
    adapted = []
    for stem in stem_of(config):
        if stem in state and _reads_others(state[stem], own[stem]):
            channels, wanted = state[stem].shape[1], own[stem].shape[1]
            state[stem], how = for_channels(state[stem], wanted)
            adapted.append(f"{stem} from {channels} to {counted(wanted, 'input channel')}: {how}")
    load_state(model, {**state, **{name: own[name] for name in new}}, source)
    return Start(new, tuple(adapted))


def for_channels(weight: Tensor, channels: int) -> tuple[Tensor, str]:
    """(K, C, h, w) -> (K, channels, h, w), and how. Of equal channels both make the same.

    Fewer channels take over the sum of those that go; more are the C in turns, each divided by its number of turns.
    """
    theirs = weight.shape[1]
    if channels < theirs:
        kept, gone = weight[:, :channels], weight[:, channels:]
        how = "their sum" if channels == 1 else f"the first {channels}, and shares of the rest"
        return kept + gone.sum(1, keepdim=True) / channels, how
    turns = torch.arange(channels) % theirs
    count = torch.bincount(turns, minlength=theirs).to(weight)
    return weight[:, turns] / count[turns].view(1, -1, 1, 1), f"the {theirs} in turns, divided by their turns"


def _reads_others(theirs: Tensor, ours: Tensor) -> bool:
    """Whether the number of input channels is all that differs."""
    same = theirs.dim() == ours.dim() == 4 and theirs.shape[0] == ours.shape[0] and theirs.shape[2:] == ours.shape[2:]
    return same and theirs.shape[1] != ours.shape[1]


def _same_function(theirs: Mapping[str, Any], ours: ModelConfig, source: str) -> None:
    """Raises BadWeights where a setting that has no tensors differs: nothing else would tell."""
    if not isinstance(ours, DenseNetConfig):
        return
    for field, value in theirs.items():
        if value != getattr(ours, field):
            raise BadWeights(
                f"{source} was made with {field}={value}, and with {getattr(ours, field)} it computes something else; "
                f"add --set model.{field}={str(value).lower()}"
            )


def _timm(name: str) -> Mapping[str, Tensor]:
    timm = import_package(f"timm:{name}", "timm", extra="timm")
    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models())
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # timm lets through whatever the hub client raises
        raise BadWeights(
            f"timm's weights of {name} could not be loaded ({error}); check the name and network"
        ) from error


# What a DenseNet of both computes with, and no tensor shows.
_THEIR_DENSENETS = {"transition_relu": True, "norm_eps": 1e-5}
_LIBRARIES = {"torchvision": load_torchvision, "timm": _timm}
