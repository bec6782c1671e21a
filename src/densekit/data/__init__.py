"""Images: where they come from, how they are decoded, split, augmented and batched."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densekit.data.loader import Batch, Loader
    from densekit.data.sets import DataSet, Images
    from densekit.data.sources import load

# Looked up on first use: who only decodes, as an exported model's runtime does, needs no torch.
_HOMES = {
    "Batch": "densekit.data.loader",
    "DataSet": "densekit.data.sets",
    "Images": "densekit.data.sets",
    "Loader": "densekit.data.loader",
    "load": "densekit.data.sources",
}

__all__ = ["Batch", "DataSet", "Images", "Loader", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'densekit.data' has no attribute '{name}'")
