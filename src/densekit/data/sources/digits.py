"""scikit-learn's digits, which come with that package."""

import numpy as np
import torch

from densekit.data.sets import ArrayImages, DataSet


def digits() -> DataSet:
    """scikit-learn's 1,797 digits of 8 x 8 pixels (UCI, test part); nothing to download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Values are 0 to 16.
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = ArrayImages(pixels, torch.from_numpy(bunch.target.astype(np.int64)))
    return DataSet("digits", tuple(str(i) for i in range(10)), {"train": images}, mirror_safe=False, background="dark")
