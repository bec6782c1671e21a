"""Prediction with an exported .onnx in a process without torch: onnxruntime, NumPy, Pillow and densekit's decoder.

>>> from densekit.export.runtime import OnnxClassifier
>>> OnnxClassifier("exported/model.onnx").predict("photo.jpg").top(3)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densekit.data.decoding.decode import MAX_PIXELS, decode
from densekit.data.decoding.in_memory import ImageSource
from densekit.data.resize_crop import framed
from densekit.errors import BadImage, check_positive
from densekit.inference.runtimes import open_file


@dataclass(frozen=True)
class Answer:
    """Probabilities of one image."""

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """(classes,), sums to 1; of a model for several labels an image, each for itself."""

    def top(self, k: int = 5) -> list[dict[str, str | int | float]]:
        """The `k` most probable classes, best first: class, index, probability. Raises InvalidInput for k below 1."""
        check_positive("k", k)
        best = np.argsort(-self.probabilities, kind="stable")[:k]
        return [{"class": self.classes[i], "index": int(i), "probability": float(self.probabilities[i])} for i in best]


class OnnxClassifier:
    """An exported .onnx with its classes and preprocessing."""

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        """Raises BadWeights for a missing, damaged or foreign file, InvalidInput without onnxruntime."""
        self._path = Path(path)
        self._opened = open_file(self._path, threads)
        self.passport = self._opened.passport(path)
        self.classes = self.passport.classes
        self._outside = self.passport.outside
        self._probabilities = sigmoid if self.passport.card.get("task") == "multi-label" else softmax

    def predict(self, source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Answer:
        """Classify one image, given as `Classifier.predict` takes it.

        Raises:
            BadImage: an image that cannot be read, or logits that are not finite.
            InvalidInput: a `source` that is no image.
        """
        outside = self._outside
        image = decode(source, channels=outside.channels, max_pixels=max_pixels, window=outside.window).image
        logits = self.logits(self.pixels([image]))
        if not np.isfinite(logits).all():
            raise BadImage(
                "not_finite", f"the outputs of {self._path} for the image are not finite; export other weights"
            )
        return Answer(self.classes, self._probabilities(logits)[0])

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.uint8]:
        """Decoded images -> (N, H, W, C) at the network's size."""
        frames = [np.asarray(framed(image, self._outside)) for image in images]
        return np.stack([frame[:, :, None] if frame.ndim == 2 else frame for frame in frames])

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) -> (N, classes)."""
        return self._opened.run(pixels if self.passport.inside else self._normalised(pixels))

    def _normalised(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self._outside.mean, self._outside.std))
        return (pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) - mean) / std


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each; by tanh, which cannot overflow."""
    return ((1 + np.tanh(logits / 2)) / 2).astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, classes) -> (N, classes), each row sums to 1."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
