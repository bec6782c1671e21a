"""A model folder: config.json and model.safetensors, all that a prediction needs."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from densekit.config import DataConfig, Frozen, ModelConfig, Preprocessing, describe
from densekit.errors import BadWeights
from densekit.models import ImageClassifier, build
from densekit.weights import atomic

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class ModelCard(Frozen):
    """config.json: what the weights are, what goes in, what comes out, and where they come from."""

    format: int = 1
    model: ModelConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    task: Literal["single-label", "multi-label"] = "single-label"
    """Whether an image is of exactly one class or of any number."""
    thresholds: tuple[float, ...] = ()
    """multi-label: the probability from which on an image is taken to be of each class; none: 1/2."""
    data: DataConfig | None = None
    """What it was trained on, and how that was split; evaluation finds the same split by it."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Of these weights, as measured when they were made; fractions, not percent."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Command, seed, versions, data."""
    sha256: str | None = None
    """Of the weights beside it; none: they are not checked."""


def save_model(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> str:
    """Writes a model folder; returns its weights' sha256. `state` is moved to the CPU and made contiguous."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = save(plain(state))
    digest = hashlib.sha256(packed).hexdigest()
    card = card.model_copy(update={"sha256": digest})
    atomic.write(folder / WEIGHTS, packed)
    atomic.write(folder / CONFIG, json.dumps(card.model_dump(mode="json"), indent=2) + "\n")
    return digest


def read_card(folder: Path) -> ModelCard:
    """Raises BadWeights when config.json is missing or not a model's."""
    path = folder / CONFIG
    try:
        return ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadWeights(f"no {path}; a model folder holds {CONFIG} and {WEIGHTS}") from None
    except ValidationError as error:
        raise BadWeights(f"{path} is not a densekit model: {describe(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadWeights(f"cannot read {path}: {error}") from error


def load_model(folder: Path, plan: str = "auto") -> tuple[ImageClassifier, ModelCard]:
    """The network in evaluation mode, and its card. Raises BadWeights for damaged or foreign weights."""
    card = read_card(folder)
    model = build(card.model, plan)
    load_state(model, read_tensors(folder, card), folder)
    return model.eval(), card


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


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Loads every tensor or raises BadWeights naming those that do not match."""
    own = model.state_dict()
    wrong = sorted(
        {*(own.keys() ^ state.keys()), *(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)}
    )
    if wrong:
        raise BadWeights(
            f"{source} does not hold the weights of this network: {len(wrong)} tensors are missing, left over "
            f"or of another shape, {', '.join(wrong[:3])} among them; choose the network they were trained with"
        )
    model.load_state_dict(state)


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors stores them: on the CPU, contiguous, sharing nothing."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
