"""A network with its classes and preprocessing: images in, named probabilities out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from densekit.config import Preprocessing
from densekit.data.decode import MAX_PIXELS, decode
from densekit.data.loader import normalise, pixels_of
from densekit.models import ImageClassifier
from densekit.weights import ModelCard, load_model, model_folder

ImageSource = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class Prediction:
    """Probabilities of one image."""

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """(classes,), sums to 1."""
    notices: tuple[str, ...] = ()
    """What a person should know about how the image was read."""

    def top(self, k: int = 5) -> list[dict[str, str | int | float]]:
        """The `k` most probable classes, best first: class, index, probability."""
        best = np.argsort(-self.probabilities, kind="stable")[:k]
        return [
            {"class": self.classes[i], "index": int(i), "probability": float(self.probabilities[i])} for i in best
        ]


class Classifier:
    """What `densekit.load` returns."""

    def __init__(self, model: ImageClassifier, card: ModelCard, device: torch.device) -> None:
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        self.card = card
        self.device = device

    @classmethod
    def load(cls, source: str | Path, device: str = "auto") -> "Classifier":
        """From a run folder, a model folder, or a shipped model's name. Raises BadWeights or UnknownName."""
        from densekit.engine.setup import device_named

        model, card = load_model(model_folder(source))
        return cls(model, card, device_named(device))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return self.card.classes

    def predict(self, source: ImageSource, *, invert: bool = False, max_pixels: int = MAX_PIXELS) -> Prediction:
        """One image, from a path or encoded bytes. Raises BadImage."""
        return self.predict_batch([source], invert=invert, max_pixels=max_pixels)[0]

    @torch.inference_mode()
    def predict_batch(
        self, sources: Sequence[ImageSource], *, invert: bool = False, max_pixels: int = MAX_PIXELS
    ) -> list[Prediction]:
        """Several images in one pass. `invert` swaps dark and light first. Raises BadImage for the first bad one."""
        preprocessing = self.card.preprocessing
        decoded = [decode(source, channels=preprocessing.channels, max_pixels=max_pixels) for source in sources]
        pixels = torch.stack([pixels_of(each.image, preprocessing) for each in decoded])
        x = normalise((255 - pixels if invert else pixels).to(self.device).float().div_(255), preprocessing)
        probabilities = self.model(x.contiguous(memory_format=torch.channels_last)).softmax(1).cpu().numpy()
        return [
            Prediction(self.classes, row, (*each.notices, *background_notice(each.image, preprocessing, invert)))
            for row, each in zip(probabilities, decoded, strict=True)
        ]


def background_notice(image: Image.Image, preprocessing: Preprocessing, invert: bool) -> tuple[str, ...]:
    """A warning when the picture's rim is as light as the training images' was dark, or the other way round."""
    if preprocessing.background is None:
        return ()
    grey: Tensor = torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32))
    rim = torch.cat((grey[0], grey[-1], grey[:, 0], grey[:, -1])).median().item() / 255
    light = (rim > 0.5) != invert
    if light == (preprocessing.background == "light"):
        return ()
    seen = "light" if light else "dark"
    return (f"{seen} background, but the training images have a {preprocessing.background} one: try --invert",)
