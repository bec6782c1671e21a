"""Prediction with the network as it is placed on its device."""

import torch

from densekit.engine import Classifier
from densekit.weights import load_model, model_folder, shipped_names


def test_a_placed_network_computes_what_its_weights_say() -> None:
    """However its weights lie in memory, and however its blocks are executed."""
    for name in shipped_names():
        plain, card = load_model(model_folder(name), "concat")
        placed = Classifier.load(name).model
        x = torch.randn(4, card.preprocessing.channels, *card.preprocessing.size)
        with torch.inference_mode():
            actual = placed(x.contiguous(memory_format=torch.channels_last))
            torch.testing.assert_close(actual, plain(x), rtol=1e-4, atol=1e-4)
