"""`densekit show` as a function."""

from pathlib import Path

from pydantic import ValidationError

from densekit.config import ModelConfig, describe
from densekit.errors import InvalidInput, UnknownName
from densekit.models import config_for, model_names
from densekit.models.structure import Structure, structure_of
from densekit.weights.folder import read_card
from densekit.weights.resolve import model_folder, shipped_names


def show(model: str | Path, *, image_size: int | None = None) -> Structure:
    """A network module by module: shapes, parameters and MACs. No weights are loaded.

    Args:
        model: a network's name, such as `densenet121` or `timm:NAME`, or MODEL: a run, a model folder, a shipped model,
            hf:OWNER/NAME.
        image_size: of the input, in pixels square; none: what the network has.

    Raises:
        UnknownName: neither a network nor a model has that name.
        InvalidInput: the network does not take images of this size.
        BadWeights: the folder holds no model.
    """
    config = _config(str(model))
    if image_size is None:
        return structure_of(config)
    try:
        sized = type(config).model_validate(config.model_dump() | {"image_size": image_size})
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error
    return structure_of(sized)


def _config(name: str) -> ModelConfig:
    """A trained model's where there is one of that name, else a named network's."""
    try:
        return config_for(name)
    except UnknownName:
        try:
            return read_card(model_folder(name)).model
        except UnknownName as error:
            known = [*model_names(), *shipped_names()]
            hint = "name a network (`densekit models` lists them), a run or a model folder"
            raise UnknownName("network or model", name, known, hint) from error
