"""The images that an export is compared, calibrated and measured by: the model's own where they are at hand."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densekit.config import DataConfig, Preprocessing
from densekit.data import DataSet, Images, Loader
from densekit.data import load as load_data
from densekit.data.sets import ArrayImages
from densekit.data.sources.registry import at_hand
from densekit.data.sources.synthetic import synthetic
from densekit.data.split import divide
from densekit.errors import BadData, DensekitError, InvalidInput
from densekit.evaluation.evaluate import config_of, expected_of, with_classes_of
from densekit.evaluation.held_out import is_own, to_measure
from densekit.export.parity import IMAGES
from densekit.weights import ModelCard

BATCH = 32


@dataclass(frozen=True)
class Real:
    """A data set's images, to calibrate, to measure and to compare by."""

    data: DataSet
    config: DataConfig
    preprocessing: Preprocessing
    train: Images
    split: str
    held_out: Images

    def loader(self, images: Images, preprocessing: Preprocessing) -> Loader:
        """In order and unchanged."""
        workers, most = self.config.workers, self.config.max_pixels
        return Loader(images, preprocessing, BATCH, workers=workers, max_pixels=most)

    def pixels(self, images: Images, count: int) -> Tensor:
        """(count, C, H, W) uint8 at the network's size: of a fixed random choice, as files lie class by class."""
        chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:count])
        loader = self.loader(images.subset(chosen), self.preprocessing.unnormalised())
        with loader.reading() as batches:
            pixels = torch.cat([batch.images for batch in batches])
        return pixels.mul(255).round().clamp(0, 255).to(torch.uint8)


def images_for(model: str | Path, card: ModelCard, data: str | None, data_dir: Path, *, needed: bool) -> Real | None:
    """The model's own images, or those of DATA; without either, or where they would have to be downloaded, none.

    Raises InvalidInput or BadData if they are `needed`, or were asked for.
    """
    config = card.data if data is None or is_own(card, data) else config_of(data, card.data)
    if config is None:
        if needed:
            raise InvalidInput(
                "--int8 needs images, and the model does not say what it was trained on; add --data DATA"
            )
        return None
    wanted = needed or data is not None
    if not wanted and not at_hand(config.source, data_dir):
        return None
    try:
        loaded = load_data(config, data_dir, expected=expected_of(card, config.source))
        if "train" not in loaded.splits:
            raise BadData(f"{loaded.name} has no training images to calibrate by; name data with a train split")
        loaded, _ = with_classes_of(card, loaded, card.model.name)
        # Of a folder without splits, what is calibrated on must not be measured on.
        split = "test" if set(loaded.splits) == {"train"} else None
        chosen = to_measure(model, card, loaded, config, split, data_dir=data_dir, settings={}, dividing=True)
        train, held_out = divide(loaded, chosen.config).splits["train"], chosen.images
        if not is_own(card, config.source):  # training never divides identical images
            train = _without(train, held_out, loaded.name)
        real = Real(loaded, config, card.preprocessing, train, chosen.split, held_out)
        if len(held_out) < IMAGES or len(real.pixels(held_out, IMAGES)) < IMAGES:
            raise BadData(f"{loaded.name} has fewer than {IMAGES} images to compare by; name other --data")
    except DensekitError:
        if wanted:
            raise
        return None
    return real


def _without(train: Images, held_out: Images, name: str) -> Images:
    """Those for calibration that are not held out under another name. Raises BadData where none is left."""
    others = np.flatnonzero(~np.isin(train.content_hashes(), held_out.content_hashes()))
    if not len(others):
        raise BadData(f"all images of {name} to calibrate by are among those held out; name data with others")
    return train.subset(others)


def made_up(preprocessing: Preprocessing) -> Tensor:
    """(IMAGES, C, H, W) uint8: patterns under noise, the same each time."""
    height, width = preprocessing.size
    images = synthetic(f"synthetic:{height}x{width}x{preprocessing.channels}:5:{IMAGES}").splits["train"]
    assert isinstance(images, ArrayImages)
    return images.pixels
