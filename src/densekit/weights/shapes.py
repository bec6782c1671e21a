"""Which of a network's tensors follow from the number of classes, and which from that of input channels."""

from typing import Literal

import torch

from densekit.config import ModelConfig
from densekit.models import build


def head_of(config: ModelConfig) -> tuple[str, ...]:
    """Names of the tensors whose shape follows from the number of classes, whatever a library calls them."""
    return _depending(config, "num_classes", 2)


def stem_of(config: ModelConfig) -> tuple[str, ...]:
    """Names of the tensors whose shape follows from the number of input channels: the first convolution's."""
    return _depending(config, "in_channels", 3)


def _depending(config: ModelConfig, field: Literal["num_classes", "in_channels"], value: int) -> tuple[str, ...]:
    with torch.device("meta"):
        one, other = (build(config.model_copy(update={field: n})).state_dict() for n in (value, value + 1))
    return tuple(name for name, tensor in one.items() if tensor.shape != other[name].shape)
