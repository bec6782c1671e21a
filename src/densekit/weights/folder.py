"""A model folder: config.json and model.safetensors, all that a prediction needs."""

import hashlib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, FailFast, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from densekit import atomic, strict_json
from densekit.config import DataConfig, DenseNetConfig, Frozen, ModelConfig, Preprocessing, ResNetConfig, describe
from densekit.default_dtype import float32_default
from densekit.errors import BadWeights, NotFinite
from densekit.formatting import listed
from densekit.models import ImageClassifier, build
from densekit.parsing import Malformed, read_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_CARD_BYTES = 1 << 22
"""100,000 class names take about half of it."""


def _without_nan(metrics: dict[str, Any]) -> dict[str, Any]:
    """Older versions wrote NaN for what is undefined."""
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in metrics.items()}


class ModelCard(Frozen):
    """config.json: what the weights are, what goes in, what comes out, and where they come from."""

    format: int = 1
    model: ModelConfig
    classes: Annotated[tuple[str, ...], FailFast()]
    preprocessing: Preprocessing
    task: Literal["single-label", "multi-label"] = "single-label"
    """Whether an image is of exactly one class or of any number."""
    task_known: bool = True
    """False: assumed for imported weights, which do not show it."""
    thresholds: Annotated[tuple[float, ...], FailFast()] = ()
    """multi-label: the probability from which on an image is taken to be of each class; none: 1/2."""
    data: DataConfig | None = None
    """What it was trained on, and how that was split; evaluation finds the same split by it."""
    metrics: Annotated[dict[str, Any], AfterValidator(_without_nan)] = Field(default_factory=dict)
    """Of these weights, as measured when they were made; fractions, not percent."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Command, seed, versions, data."""
    sha256: str | None = None
    """Of the weights beside it; none: they are not checked."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what, given, wanted in (
            ("class names", len(self.classes), self.model.num_classes),
            ("thresholds", len(self.thresholds), self.model.num_classes),
            ("channels of preprocessing", self.preprocessing.channels, self.model.in_channels),
        ):
            if given not in (0, wanted):
                raise ValueError(f"{given} {what}, but the network has {wanted}")
        return self


def save_model(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> str:
    """Writes a model folder; returns its weights' sha256. `state` is moved to the CPU and made contiguous."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = save(plain(state))
    digest = hashlib.sha256(packed).hexdigest()
    card = card.model_copy(update={"sha256": digest})
    atomic.write(folder / WEIGHTS, packed)
    atomic.write(folder / CONFIG, strict_json.dumps(card.model_dump(mode="json"), indent=2) + "\n")
    return digest


def read_card(folder: Path) -> ModelCard:
    """Raises BadWeights when config.json is missing or not a model's."""
    path = folder / CONFIG
    try:
        return ModelCard.model_validate_json(read_text(path, _CARD_BYTES))
    except FileNotFoundError:
        raise BadWeights(f"no {path}; a model folder holds {CONFIG} and {WEIGHTS}") from None
    except ValidationError as error:
        raise BadWeights(f"{path} is not a densekit model: {describe(error)}") from error
    except (OSError, Malformed) as error:
        raise BadWeights(f"cannot read {path}: {error}") from error


def load_model(folder: Path, plan: str = "auto") -> tuple[ImageClassifier, ModelCard]:
    """The network in evaluation mode, and its card. Raises BadWeights for damaged or foreign weights."""
    card = read_card(folder)
    state = read_tensors(folder, card)
    model = _without_memory(card.model, plan, state, folder)
    load_state(model, state, folder, assign=True)
    return model.eval(), card


def _without_memory(config: ModelConfig, plan: str, state: Mapping[str, Tensor], folder: Path) -> ImageClassifier:
    """The network on the meta device. Raises BadWeights for one that the weights cannot fill, before it takes time."""
    layers = sum(config.blocks) if isinstance(config, DenseNetConfig) else 0
    layers = config.depth if isinstance(config, ResNetConfig) else layers
    if layers > len(state):
        raise BadWeights(
            f"{folder / CONFIG} describes a network of {layers:,} layers, but {WEIGHTS} beside it has only "
            f"{len(state):,} tensors; fetch both again"
        )
    try:
        with torch.device("meta"), float32_default():
            return build(config, plan)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes that no tensor can have
        reason = str(error).partition("\n")[0]
        raise BadWeights(f"{folder / CONFIG} describes a network that cannot be built: {reason}") from error


def read_tensors(folder: Path, card: ModelCard) -> dict[str, Tensor]:
    """The weights that stand beside a card. Raises BadWeights, also for those of another card."""
    path = folder / WEIGHTS
    try:
        packed = path.read_bytes()
        if card.sha256 not in (None, hashlib.sha256(packed).hexdigest()):
            raise BadWeights(
                f"{path} is not what {CONFIG} beside it was written for: its sha256 differs; fetch both again, or, "
                f"if you changed the weights yourself, take sha256 out of {CONFIG}"
            )
        return load(packed)
    except FileNotFoundError:
        raise BadWeights(f"no {path}") from None
    except (OSError, SafetensorError) as error:
        raise BadWeights(f"{path} is damaged or not safetensors ({error}); fetch or write it again") from error


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: Path | str, *, assign: bool = False) -> None:
    """Loads every tensor or raises BadWeights naming those that do not match, or NotFinite those not finite.

    `assign` gives the network copies in its own data types, for one that has no memory yet.
    """
    own = model.state_dict()
    _check_matching(own, state, source)
    if bad := not_finite(state):
        raise NotFinite(
            f"{source} holds weights that are not finite, in {len(bad)} of {len(state)} tensors ({listed(bad)}); the "
            "training that made them diverged: train again with a lower learning rate, or take an earlier checkpoint"
        )
    if assign:
        # Copies, as the tensors of a file share one buffer, in which they are not aligned.
        state = {name: tensor.to(own[name].dtype, copy=True) for name, tensor in state.items()}
    model.load_state_dict(state, assign=assign)


def _check_matching(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: Path | str) -> None:
    wrong = sorted(
        {*(own.keys() ^ state.keys()), *(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)}
    )
    if wrong:
        raise BadWeights(
            f"{source} does not hold the weights of this network: {len(wrong)} tensors are missing, left over "
            f"or of another shape, {', '.join(wrong[:3])} among them; choose the network they were trained with"
        )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a value that is NaN or infinite; counters are integers, and finite."""
    return [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors stores them: on the CPU, contiguous, sharing nothing."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
