"""densekit: DenseNet, whole."""

from densekit.models import create_model
from densekit.version import __version__

__all__ = ["__version__", "create_model"]
