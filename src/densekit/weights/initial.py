"""--init SOURCE: weights to start from."""

from collections.abc import Mapping

from torch import Tensor

from densekit.errors import BadWeights, InvalidInput
from densekit.models import ImageClassifier
from densekit.weights.folder import WEIGHTS, load_state, read_card, read_tensors
from densekit.weights.resolve import model_folder


def start_from(model: ImageClassifier, source: str, classes: tuple[str, ...]) -> None:
    """Loads every tensor of SOURCE, a MODEL, torchvision:NAME or timm:NAME, into `model`.

    The head is kept as it is unless SOURCE knows the same classes. Raises BadWeights for anything else unmatched.
    """
    library, colon, name = source.partition(":")
    if colon and library in _LIBRARIES:
        state, same_classes = _LIBRARIES[library](name), False
    else:
        folder = model_folder(source)
        state, same_classes = read_tensors(folder / WEIGHTS), read_card(folder).classes == classes
    if not same_classes:
        # The head's tensors are those that follow from the number of classes.
        head = {key: value for key, value in model.state_dict().items() if key.startswith("classifier.")}
        state = {key: value for key, value in state.items() if not key.startswith("classifier.")} | head
    load_state(model, state, source)


def _torchvision(name: str) -> Mapping[str, Tensor]:
    import torchvision.models

    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        return weights.get_state_dict(progress=True, check_hash=True)
    except ValueError as error:
        raise InvalidInput(f"torchvision has no model '{name}'; densenet121, 169, 201 and 161 have weights") from error
    except (OSError, RuntimeError) as error:
        raise BadWeights(
            f"torchvision's weights of {name} could not be downloaded ({error}); check the network"
        ) from error


def _timm(name: str) -> Mapping[str, Tensor]:
    try:
        import timm
    except ImportError:
        raise InvalidInput("timm is not installed: pip install 'densekit[timm]'") from None
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # timm lets through whatever the hub client raises
        raise BadWeights(
            f"timm's weights of {name} could not be loaded ({error}); check the name and network"
        ) from error


_LIBRARIES = {"torchvision": _torchvision, "timm": _timm}
