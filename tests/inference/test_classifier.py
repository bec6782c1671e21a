"""Prediction: the network as it is placed on its device, and what images and arguments it takes."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from densekit.errors import BadImage, InvalidInput
from densekit.export.runtime import Answer
from densekit.inference.classifier import Classifier, Prediction
from densekit.weights import load_model, model_folder, shipped_names
from tests.narrow import expect_type


def test_a_placed_network_computes_what_its_weights_say() -> None:
    """However its weights lie in memory, and however its blocks are executed."""
    for name in shipped_names():
        plain, card = load_model(model_folder(name), "concat")
        placed = Classifier.load(name).model
        x = torch.randn(4, card.preprocessing.channels, *card.preprocessing.size)
        with torch.inference_mode():
            actual = placed(x.contiguous(memory_format=torch.channels_last))
            torch.testing.assert_close(actual, plain(x), rtol=1e-4, atol=1e-4)


PICTURE = Image.effect_noise((41, 30), 90).convert("RGB")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.load("fashion-mnist")


def as_file(picture: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file


FORMS: dict[str, Callable[[Image.Image], Any]] = {
    "bytes": lambda picture: as_file(picture).getvalue(),
    "bytearray": lambda picture: bytearray(as_file(picture).getvalue()),
    "file object": as_file,
    "PIL image": lambda picture: picture,
    "array": np.asarray,
    "tensor": lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1),
}


def test_an_image_in_memory_has_the_probabilities_of_its_file(classifier: Classifier, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "a.png")
    expected = classifier.predict(tmp_path / "a.png")
    for name, form in FORMS.items():
        found = classifier.predict(form(PICTURE))
        assert np.array_equal(found.probabilities, expected.probabilities), name
        assert found.notices == expected.notices, name


def test_several_images_may_be_a_list_a_generator_or_a_batch(classifier: Classifier) -> None:
    pictures = [Image.effect_noise((28, 28), seed).convert("RGB") for seed in (10, 60, 90)]
    arrays = np.stack([np.asarray(each) for each in pictures])
    expected = [expect_type(each, Prediction).probabilities for each in classifier.predict_each(pictures)]
    batches: list[Any] = [
        (each for each in pictures),
        arrays,
        torch.from_numpy(arrays).permute(0, 3, 1, 2),
        [pictures[0], arrays[1], as_file(pictures[2])],
    ]
    for batch in batches:
        found = [expect_type(each, Prediction).probabilities for each in classifier.predict_each(batch)]
        assert np.array_equal(found, expected)
    assert list(classifier.predict_each([])) == []


def test_a_bad_array_does_not_stop_the_others(classifier: Classifier) -> None:
    first, bad, last = classifier.predict_each([PICTURE, np.zeros((3, 3)), PICTURE])
    assert isinstance(bad, BadImage)
    expected = classifier.predict(PICTURE).probabilities
    for each in (first, last):
        np.testing.assert_allclose(expect_type(each, Prediction).probabilities, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("form", [str, Path, *FORMS.values()])
def test_one_image_in_place_of_several_is_refused_at_once(classifier: Classifier, form: Callable[[Any], Any]) -> None:
    source = form("photo.png") if form in (str, Path) else form(PICTURE)
    with pytest.raises(InvalidInput, match="one image, not several; call predict"):
        classifier.predict_each(source)  # type: ignore[arg-type]  # that is what is refused


def test_what_holds_no_images_is_refused_at_once(classifier: Classifier) -> None:
    for nothing in (None, 3):
        with pytest.raises(InvalidInput, match="holds no images"):
            classifier.predict_each(nothing)  # type: ignore[arg-type]  # that is what is refused


@pytest.mark.parametrize("size", [0, -1, 1.5, None])
def test_a_batch_of_no_size_is_refused_at_once(classifier: Classifier, size: Any) -> None:
    with pytest.raises(InvalidInput, match="batch_size="):
        classifier.predict_each([PICTURE], batch_size=size)


@pytest.mark.parametrize("k", [0, -1, None])
def test_the_best_of_no_classes_is_refused(classifier: Classifier, k: Any) -> None:
    prediction = classifier.predict(PICTURE)
    for answer in (prediction, Answer(prediction.classes, prediction.probabilities)):
        with pytest.raises(InvalidInput, match="k="):
            answer.top(k)
        assert len(answer.top(np.int64(3))) == 3  # type: ignore[arg-type]  # an integer in all but its type
        assert len(answer.top(99)) == 10
