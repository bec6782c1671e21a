"""Whether the classes of imported weights exclude each other: given, read from the file, deduced, or assumed and said.

Weights are the same for a softmax and for sigmoids, and the wrong one of the two gives wrong probabilities.
"""

from typing import Literal, NamedTuple

from densekit.errors import BadWeights, InvalidInput
from densekit.weights.foreign.importer import Imported

Task = Literal["single-label", "multi-label"]

_OPTIONS: dict[Task, str] = {"single-label": "--single-label", "multi-label": "--multi-label"}
_ENDS: dict[str, Task] = {"softmax": "single-label", "sigmoid": "multi-label"}
_CIFAR_CLASSES = (10, 100)
IMAGENET_CLASSES = 1000
_CHOOSE = "one class an image (softmax): --single-label; any number of classes (sigmoids): --multi-label"


class InferredTask(NamedTuple):
    """What a network's outputs mean."""

    task: Task
    why: str
    known: bool = True
    """False: assumed, as nothing shows it."""


def infer_task(found: Imported, asked: Task | None, file: str) -> InferredTask:
    """The task `asked` for, or what the file shows. Raises InvalidInput where that is unclear or contradicts the file.

    Raises BadWeights for a single output with a softmax, which is 1 for every image.
    """
    outputs, end = found.config.num_classes, found.activation
    if outputs == 1 and end == "softmax":
        raise BadWeights(f"{file} ends in a softmax of one output, which is 1 for every image; it tells nothing apart")
    if asked is not None:
        if outputs == 1 and asked == "single-label":
            raise InvalidInput(
                f"--single-label: {file} has one output, and a softmax of one is 1 for every image; leave the option "
                "out, and the output becomes the probability of one class (sigmoid)"
            )
        if end in _ENDS and _ENDS[end] != asked:
            raise InvalidInput(f"{_OPTIONS[asked]}: {file} says that the network ends in a {end}; leave the option out")
        return InferredTask(asked, "as given")
    return _deduced(found) or _assumed(found, file)


def _deduced(found: Imported) -> InferredTask | None:
    """What something in the file, or its number of outputs, shows."""
    outputs, end = found.config.num_classes, found.activation
    if not outputs:
        return InferredTask("single-label", "")
    if end in _ENDS:
        return InferredTask(_ENDS[end], f"the file says that the network ends in a {end}")
    if found.beside is not None and found.beside.task is not None:
        return InferredTask(found.beside.task, "config.json beside the weights says so")
    if found.is_xray:
        return InferredTask("multi-label", "op_threshs in the file are torchxrayvision's, whose outputs have sigmoids")
    if any(name.rpartition(".")[2] == "pos_weight" for name in found.account.aside):
        return InferredTask(
            "multi-label", "pos_weight in the file is of BCEWithLogitsLoss, whose outputs have sigmoids"
        )
    if outputs == 1:
        return InferredTask("multi-label", "one output is the logit of one class: a sigmoid, as BCEWithLogitsLoss has")
    stems = {statistics.stem for statistics in found.candidates}
    if outputs == IMAGENET_CLASSES and "imagenet" in stems:
        return InferredTask("single-label", f"{outputs} outputs are ImageNet's classes")
    if outputs in _CIFAR_CLASSES and "cifar" in stems:
        return InferredTask("single-label", f"{outputs} outputs are CIFAR's classes, which these names are used for")
    return None


def _assumed(found: Imported, file: str) -> InferredTask:
    """Several outputs that nothing is known of. Raises InvalidInput where something unseen follows the classifier."""
    heads = [theirs for theirs, ours in found.match.names.items() if ours == "classifier.weight"]
    if any(name.endswith(".0.weight") for name in heads):
        raise InvalidInput(
            f"{file}: its classifier, {heads[0]}, is the first part of a Sequential, so that something without weights "
            f"follows it, a sigmoid or a softmax; say which: {_CHOOSE}"
        )
    return InferredTask(
        "single-label",
        "assumed, as weights do not show whether their classes exclude each other; if an image may be of several: "
        "--multi-label, else confirm it with --single-label",
        known=False,
    )
