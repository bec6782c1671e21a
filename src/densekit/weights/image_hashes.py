"""Hashes of the images a model was trained with, by split: an optional file beside the weights.

With it `evaluate` knows training images wherever it meets them. A model folder loads without it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from densekit import atomic
from densekit.errors import BadWeights

FILE = "images.safetensors"
Hashes = Mapping[str, NDArray[np.uint64]]
"""Split -> (N,) `content_hashes` of its images, in the split's order."""


def write(folder: Path, hashes: Hashes) -> None:
    """Writes the file, 8 bytes an image; nothing where no hashes are known."""
    if hashes:
        atomic.write(folder / FILE, save({name: np.ascontiguousarray(of_split) for name, of_split in hashes.items()}))


def read(folder: Path) -> Hashes | None:
    """The hashes; None where the folder has none. Raises BadWeights for a damaged file."""
    path = folder / FILE
    try:
        hashes = load(path.read_bytes())
        if "train" not in hashes or any(each.dtype != np.uint64 or each.ndim != 1 for each in hashes.values()):
            raise ValueError("it holds no hashes of training images")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, SafetensorError) as error:
        raise BadWeights(
            f"{path} is damaged ({error}); copy it again, or remove it: the model loads without"
        ) from error
    return hashes
