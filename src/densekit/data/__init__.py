"""Images: where they come from, how they are decoded, split, augmented and batched."""

from densekit.data.loader import Batch, Loader
from densekit.data.sets import DataSet, Images
from densekit.data.sources import load

__all__ = ["Batch", "DataSet", "Images", "Loader", "load"]
