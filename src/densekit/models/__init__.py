"""Networks by name, and what they cost."""

from typing import TYPE_CHECKING

from densekit import lazy_imports

if TYPE_CHECKING:
    from densekit.models.base import ImageClassifier
    from densekit.models.densenet import DenseNet
    from densekit.models.factory import build, create_model
    from densekit.models.names import config_for, model_names

# Looked up on first use: names and counts need no torch. No module here may have one of these names, as Python would
# put the module in its place.
_HOMES = {
    "DenseNet": "densekit.models.densenet",
    "ImageClassifier": "densekit.models.base",
    "build": "densekit.models.factory",
    "config_for": "densekit.models.names",
    "create_model": "densekit.models.factory",
    "model_names": "densekit.models.names",
}
__getattr__ = lazy_imports.names(__name__, _HOMES)

__all__ = ["DenseNet", "ImageClassifier", "build", "config_for", "create_model", "model_names"]
