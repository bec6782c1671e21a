"""MODEL of the command line, or an exported file -> a classifier."""

from pathlib import Path

import torch

from densekit.inference.classifier import Classifier
from densekit.inference.exported_network import is_exported, load_exported


def load(source: str | Path, device: str = "auto") -> Classifier:
    """Load a classifier: network, classes and preprocessing.

    Args:
        source: a run folder, a model folder, a shipped model's name, an exported file, or hf:OWNER/NAME.
        device: cpu, cuda, cuda:N, or auto for CUDA where it is available.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        UnknownName: nothing has that name.
        BadWeights: a model that is missing or damaged.
        InvalidInput: the runtime of an exported file, or the Hub's client, is not installed.
    """
    if is_exported(source):
        network, card = load_exported(source, torch.get_num_threads())
        return Classifier(network, card, torch.device("cpu"))
    return Classifier.load(source, device)
