"""MODEL of the command line, or an exported file -> a classifier."""

from pathlib import Path

import torch

from densekit.inference.classifier import Classifier
from densekit.inference.exported_network import is_exported, load_exported


def load(source: str | Path, device: str = "auto") -> Classifier:
    """A classifier from a run folder, a model folder, a shipped model's name, an exported file, or hf:OWNER/NAME.

    Raises BadWeights, UnknownName, or InvalidInput where an exported file's runtime or the Hub's client is missing.
    """
    if is_exported(source):
        network, card = load_exported(source, torch.get_num_threads())
        return Classifier(network, card, torch.device("cpu"))
    return Classifier.load(source, device)
