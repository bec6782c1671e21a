"""Networks by name, and what they cost."""

from densekit.models.base import ImageClassifier
from densekit.models.build import build, create_model
from densekit.models.densenet import DenseNet
from densekit.models.names import config_for, model_names

__all__ = ["DenseNet", "ImageClassifier", "build", "config_for", "create_model", "model_names"]
