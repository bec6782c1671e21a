"""Configuration -> network."""

from typing import Any

from pydantic import ValidationError

from densekit.config import DenseNetConfig, ExternalConfig, ModelConfig, ResNetConfig, describe
from densekit.errors import InvalidInput, UnknownName
from densekit.models.base import ImageClassifier
from densekit.models.densenet import DenseNet
from densekit.models.names import config_for
from densekit.ops import PLANS, backends


def build(config: ModelConfig, plan: str = "auto", kernels: str = "auto") -> ImageClassifier:
    """A freshly initialised network.

    Args:
        config: of any family.
        plan: how a DenseNet's blocks are executed.
        kernels: the backend of the `shared` plan.

    Raises:
        InvalidInput: an impossible configuration, or kernels that cannot run here.
        UnknownName: no plan, or no kernels, of that name.
    """
    if plan not in PLANS:
        raise UnknownName("plan", plan, PLANS)
    backends.check(kernels)
    if isinstance(config, DenseNetConfig):
        return DenseNet(config, plan, kernels)
    if isinstance(config, ResNetConfig):
        from densekit.models.resnet import ResNet

        return ResNet(config)
    assert isinstance(config, ExternalConfig)
    from densekit.models.external import build_external

    return build_external(config)


def create_model(name: str, *, plan: str = "auto", kernels: str = "auto", **settings: Any) -> ImageClassifier:
    """Create a network by name, with new weights.

    >>> create_model("densenet_bc_100_12", num_classes=10, in_channels=1)

    Args:
        name: such as densenet121; hyphens count as underscores. `model_names` lists them.
        plan: how dense blocks are executed: auto, concat, checkpoint or shared. All compute the same, and all can be
            differentiated any number of times.
        kernels: the backend of plan `shared`: auto, cpu, reference, or one that was registered.
        **settings: fields of the network's configuration, such as `num_classes`, `in_channels`, `image_size`.

    Returns:
        The module: (N, in_channels, H, W) -> (N, num_classes).

    Raises:
        UnknownName: no such network or setting; the closest names are in the message.
        InvalidInput: a value that is not possible.
    """
    config = config_for(name)
    known = type(config).model_fields
    for key in settings:
        if key not in known:
            raise UnknownName("model setting", key, known)
    try:
        return build(type(config).model_validate(config.model_dump() | settings), plan, kernels)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error
