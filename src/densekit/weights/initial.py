"""--init SOURCE: weights to start from."""

from collections.abc import Mapping

import torch
from torch import Tensor

from densekit.config import ModelConfig
from densekit.errors import BadWeights, InvalidInput, UnknownName
from densekit.models import ImageClassifier, build
from densekit.weights.folder import WEIGHTS, load_state, read_card, read_tensors
from densekit.weights.resolve import model_folder


def start_from(model: ImageClassifier, config: ModelConfig, source: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Loads SOURCE, a MODEL, torchvision:NAME or timm:NAME, into `model`, which was built from `config`.

    The head stays as it is unless SOURCE knows the same classes; returns the names of the tensors that so are new.
    Raises BadWeights for anything else unmatched.
    """
    library, colon, name = source.partition(":")
    if colon and library in _LIBRARIES:
        state, same_classes = _LIBRARIES[library](name), False
    else:
        folder = model_folder(source)
        state, same_classes = read_tensors(folder / WEIGHTS), read_card(folder).classes == classes
    new = () if same_classes else head_of(config)
    own = model.state_dict()
    load_state(model, {**state, **{name: own[name] for name in new}}, source)
    return new


def head_of(config: ModelConfig) -> tuple[str, ...]:
    """Names of the tensors whose shape follows from the number of classes, whatever a library calls them."""
    with torch.device("meta"):
        two, three = (build(config.model_copy(update={"num_classes": n})).state_dict() for n in (2, 3))
    return tuple(name for name, tensor in two.items() if tensor.shape != three[name].shape)


def _torchvision(name: str) -> Mapping[str, Tensor]:
    import torchvision.models as peers

    names = peers.list_models(module=peers)
    if name not in names:
        raise UnknownName("torchvision model", name, names)
    try:
        # Not the bare file: older ones have names that only the network's own builder translates.
        state = peers.get_model(name, weights="DEFAULT").state_dict()
    except (OSError, RuntimeError) as error:
        raise BadWeights(
            f"torchvision's weights of {name} could not be downloaded ({error}); check the network"
        ) from error
    # inception_v3's second head, which ours is built without.
    return {key: tensor for key, tensor in state.items() if not key.startswith("AuxLogits.")}


def _timm(name: str) -> Mapping[str, Tensor]:
    try:
        import timm
    except ImportError:
        raise InvalidInput(f"timm:{name} needs timm, an extra: pip install 'densekit[timm]'") from None
    if not timm.is_model(name):
        raise UnknownName("timm model", name, timm.list_models())
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # timm lets through whatever the hub client raises
        raise BadWeights(
            f"timm's weights of {name} could not be loaded ({error}); check the name and network"
        ) from error


_LIBRARIES = {"torchvision": _torchvision, "timm": _timm}
