"""A network with its classes and preprocessing: images in, named probabilities out."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from densekit.config import DataConfig, Preprocessing
from densekit.data.decoding.decode import MAX_PIXELS, Decoded, decode
from densekit.data.decoding.in_memory import ImageSource, check_several
from densekit.data.image_files import find_images
from densekit.data.loader import normalise, pixels_of
from densekit.devices import device_named, to_device
from densekit.errors import BadImage, InvalidInput, check_positive
from densekit.metrics.task import finite_rows, task_of
from densekit.weights import ModelCard, open_model


@dataclass(frozen=True)
class Prediction:
    """Probabilities of one image."""

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """(classes,), sums to 1; of a multi-label model each for itself."""
    notices: tuple[str, ...] = ()
    """What a person should know about how the image was read."""
    thresholds: tuple[float, ...] = ()
    """(classes,): of a multi-label model, the probabilities from which on the image is taken to be of each."""

    def top(self, k: int = 5) -> list[dict[str, str | int | float]]:
        """The `k` most probable classes, best first: class, index, probability.

        Of a multi-label model also whether each is present, and whatever else is. Raises InvalidInput for k below 1.
        """
        check_positive("k", k)
        order = np.argsort(-self.probabilities, kind="stable")
        rows = [{"class": self.classes[i], "index": int(i), "probability": float(self.probabilities[i])} for i in order]
        if not self.thresholds:
            return rows[:k]
        present = self.present
        answered = [row | {"present": row["class"] in present} for row in rows]
        return [row for place, row in enumerate(answered) if place < k or row["present"]]

    @property
    def present(self) -> tuple[str, ...]:
        """Of a multi-label model, the classes whose probability reaches their threshold."""
        return tuple(name for name, there in zip(self.classes, self.reached, strict=bool(self.thresholds)) if there)

    @property
    def reached(self) -> tuple[bool, ...]:
        """(classes,): of a multi-label model, whether the probability reaches the threshold; else empty."""
        chances = zip(self.probabilities.tolist(), self.thresholds, strict=bool(self.thresholds))
        return tuple(probability >= threshold for probability, threshold in chances)


class Classifier:
    """What `densekit.load` returns."""

    def __init__(self, model: nn.Module, card: ModelCard, device: torch.device) -> None:
        self.model = to_device(model.eval(), device)
        self.card = card
        self.task = task_of(card)
        self.device = device

    @classmethod
    def load(cls, source: str | Path, device: str = "auto") -> "Classifier":
        """From a run folder, a model folder, a shipped model's name, or hf:OWNER/NAME.

        Raises BadWeights, UnknownName or InvalidInput.
        """
        model, card = open_model(source)
        if not card.classes:
            raise InvalidInput(
                f"{source} has no classifier; train one from its weights: densekit train DATA --init {source}"
            )
        return cls(model, card, device_named(device))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return self.card.classes

    def predict(self, source: ImageSource, *, invert: bool = False, max_pixels: int = MAX_PIXELS) -> Prediction:
        """Classify one image.

        Args:
            source: A path, encoded bytes, a binary file object, a PIL image, a NumPy array (H, W) or (H, W, C), or a
                torch tensor (C, H, W). Arrays and tensors hold uint8 in the order RGB (OpenCV's is BGR), or uint16 if
                grey. The pixels are resized, cropped and normalised here, as those of a file.
            invert: Swap dark and light first.
            max_pixels: Refuse larger images.

        Raises:
            BadImage: an image that cannot be read.
            InvalidInput: a `source` that is no image.
        """
        outcome = next(self.predict_each([source], invert=invert, max_pixels=max_pixels))
        if isinstance(outcome, BadImage):
            raise outcome
        return outcome

    def predict_each(
        self,
        sources: Iterable[ImageSource],
        *,
        invert: bool = False,
        max_pixels: int = MAX_PIXELS,
        batch_size: int = 32,
    ) -> Iterator[Prediction | BadImage]:
        """Classify several images, each as `predict` takes one; an array or tensor of them is (N, ...).

        Yields a prediction or a BadImage for each, in order: a bad image does not stop the others. Raises InvalidInput
        at once for a single image or an impossible `batch_size`.
        """
        check_several(sources)
        check_positive("batch_size", batch_size)
        return self._predict_each(sources, invert, max_pixels, batch_size)

    def _predict_each(
        self, sources: Iterable[ImageSource], invert: bool, max_pixels: int, batch_size: int
    ) -> Iterator[Prediction | BadImage]:
        for chunk in batched(sources, batch_size):
            outcomes = [self._decode(source, max_pixels) for source in chunk]
            good = [outcome for outcome in outcomes if isinstance(outcome, Decoded)]
            predictions = iter(self._predict(good, invert) if good else ())
            for source, outcome in zip(chunk, outcomes, strict=True):
                yield outcome if isinstance(outcome, BadImage) else next(predictions) or not_finite(source)

    def predict_files(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        invert: bool = False,
        max_pixels: int = MAX_PIXELS,
        batch_size: int = 32,
    ) -> Iterator[tuple[str, Prediction | BadImage]]:
        """Classify the images in files and folders.

        Args:
            paths: One or several of: a file, a folder (all images below it), a glob such as `photos/*.jpg`,
                `csv:FILE` (the images that a table names), `wds:PATTERN` (the images in tar shards), `hf:NAME` (the
                images of a data set of the Hub, all its splits).
            invert: Swap dark and light first.
            max_pixels: Refuse larger images.
            batch_size: Images that are computed at once.

        Returns:
            An iterator over (path, prediction or BadImage) in the order of the paths; of an image in a shard the path
            is SHARD/FILE, of a row hf:NAME/SPLIT/ROW. A bad image does not stop the others. Pictures in a folder that
            are of no format that is read are told by a warning.

        Raises:
            BadData: a folder or pattern without images, or a table or shard that cannot be read; at once.
            InvalidInput: a table whose column of images is not known, or an impossible `batch_size`; at once.
        """
        check_positive("batch_size", batch_size)
        given = [paths] if isinstance(paths, str | os.PathLike) else paths
        told: list[str] = []
        images = list(
            find_images(
                given,
                table=DataConfig(source="csv:"),
                trained_column=self.path_column,
                note=lambda folder, line: told.append(f"{folder}: {line}"),
            )
        )
        for line in told:
            warnings.warn(line, stacklevel=2)
        outcomes = self._predict_each((image.read() for image in images), invert, max_pixels, batch_size)
        return zip((image.name for image in images), outcomes, strict=True)

    @property
    def path_column(self) -> str | None:
        """The column of images that was named for the table of the training, if there was such a table."""
        trained = self.card.data
        return trained.path_column if trained is not None and trained.source.startswith("csv:") else None

    def decode(self, source: ImageSource, max_pixels: int = MAX_PIXELS) -> Decoded:
        """One image, with the channels and the window that this network reads. Raises BadImage."""
        preprocessing = self.card.preprocessing
        return decode(source, channels=preprocessing.channels, max_pixels=max_pixels, window=preprocessing.window)

    def _decode(self, source: ImageSource, max_pixels: int) -> Decoded | BadImage:
        try:
            return self.decode(source, max_pixels)
        except BadImage as error:
            return error

    def _predict(self, decoded: Sequence[Decoded], invert: bool) -> list[Prediction | None]:
        notices = [self.notices(each, invert) for each in decoded]
        return self.predict_pixels(self.pixels([each.image for each in decoded], invert), notices)

    @torch.inference_mode()
    def predict_pixels(self, pixels: Tensor, notices: Sequence[tuple[str, ...]]) -> list[Prediction | None]:
        """(N, C, H, W) uint8, as `pixels` gives them, and the notices of each -> predictions.

        None stands for an image whose logits are not finite: `not_finite` is the error for it.
        """
        logits = self.model(self.inputs(pixels)).float()  # under autocast they may be bfloat16
        finite = finite_rows(logits).tolist()
        probabilities = self.task.probabilities(logits).cpu().numpy()
        return [
            Prediction(self.classes, row, told, self.task.decisions()) if good else None
            for row, told, good in zip(probabilities, notices, finite, strict=True)
        ]

    def pixels(self, images: Sequence[Image.Image], invert: bool = False) -> Tensor:
        """Decoded images -> (N, C, H, W) uint8 at the network's size, dark and light swapped by `invert`."""
        pixels = torch.stack([pixels_of(image, self.card.preprocessing) for image in images])
        return 255 - pixels if invert else pixels

    def inputs(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> what the network takes: on its device, normalised."""
        x = normalise(pixels.to(self.device).float().div_(255), self.card.preprocessing)
        return x.contiguous(memory_format=torch.channels_last)

    def notices(self, decoded: Decoded, invert: bool = False) -> tuple[str, ...]:
        """What a person should know about how an image was read."""
        preprocessing = self.card.preprocessing
        background = background_notice(decoded.image, preprocessing, invert)
        return (*decoded.notices, *background, *unknown_notice(self.card))


def not_finite(source: object) -> BadImage:
    """The error for an image whose logits are not finite."""
    name = source if isinstance(source, str | os.PathLike) else "the image"
    return BadImage(
        "not_finite",
        f"the network's outputs for {name} are not finite; train it again with a lower learning rate, or take other "
        "weights",
    )


def batched(items: Iterable[ImageSource], size: int) -> Iterator[tuple[ImageSource, ...]]:
    """Tuples of up to `size` items; itertools has it from Python 3.12."""
    iterator = iter(items)
    while chunk := tuple(islice(iterator, size)):
        yield chunk


def unknown_notice(card: ModelCard) -> tuple[str, ...]:
    """Warnings about what imported weights did not show, and was assumed."""
    notices = []
    if not card.preprocessing.known:
        notices.append(
            "how the training images were normalised is unknown: import the weights again with --mean and --std"
        )
    if not card.task_known:
        notices.append(
            "whether the classes exclude each other is unknown, a softmax is assumed: import the weights again with "
            "--single-label or --multi-label"
        )
    return tuple(notices)


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
