"""Values of more than 8 bits -> 0 to 1, by the window that is looked at (DICOM PS3.3, C.11.2)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def windowed(values: NDArray[Any], centre: float, width: float, function: str = "LINEAR_EXACT") -> NDArray[np.float64]:
    """LINEAR_EXACT: 0 up to centre - width / 2, 1 from centre + width / 2 on. LINEAR and SIGMOID as DICOM has them."""
    values = np.asarray(values, dtype=np.float64)
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (values - centre) / width)) / 2  # 1 / (1 + exp(-4 (x - c) / w)), without overflow
    if function == "LINEAR":  # which counts whole values: a width of 1 is a threshold
        centre, width = centre - 0.5, max(width - 1, 1e-9)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def to_8_bits(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """0 to 1 -> 0 to 255, the nearest."""
    return (shares * 255 + 0.5).astype(np.uint8)
