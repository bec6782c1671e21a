"""Static 8-bit quantisation by onnxruntime, calibrated on training images.

Convolutions and the classifier compute in 8 bits; batch norms, concatenation and pooling stay in float32, as a dense
block's maps are normalised anew by every layer, and rounding them once would be felt by all. Weights have a scale for
each output channel and 7 bits: with 8, processors without VNNI instructions saturate sums of two products.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densekit.export.writers import quiet

OPERATORS = ("Conv", "Gemm", "MatMul")


def quantise(onnx_file: Path, batches: Iterable[NDArray[Any]], path: Path) -> None:
    """A float .onnx -> an 8-bit one, by the ranges of values that `batches` of its inputs cause. Keeps its metadata."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    name = onnx.load(os.fspath(onnx_file)).graph.input[0].name
    with quiet():
        quantize_static(
            os.fspath(onnx_file),
            os.fspath(path),
            _Reader(name, batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


class _Reader:
    """Batches, as onnxruntime asks for them."""

    def __init__(self, name: str, batches: Iterable[NDArray[Any]]) -> None:
        self._name = name
        self._batches: Iterator[NDArray[Any]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}

    def __len__(self) -> int:
        return 0
