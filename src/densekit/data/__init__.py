"""Images: where they come from, how they are decoded, split, augmented and batched."""

from typing import TYPE_CHECKING

from densekit import lazy_imports

if TYPE_CHECKING:
    from densekit.data.loader import Batch, Loader
    from densekit.data.sets import DataSet, Images
    from densekit.data.sources.registry import load

# Looked up on first use: who only decodes, as an exported model's runtime does, needs no torch.
_HOMES = {
    "Batch": "densekit.data.loader",
    "DataSet": "densekit.data.sets",
    "Images": "densekit.data.sets",
    "Loader": "densekit.data.loader",
    "load": "densekit.data.sources.registry",
}
__getattr__ = lazy_imports.names(__name__, _HOMES)

__all__ = ["Batch", "DataSet", "Images", "Loader", "load"]
