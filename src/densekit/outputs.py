"""Which outputs a task can have."""

from collections.abc import Sequence

from densekit.errors import BadWeights


def check_outputs(task: object, classes: Sequence[str], source: object) -> None:
    """Raises BadWeights for a softmax over one class, which is 1 for every image."""
    if task != "multi-label" and len(classes) == 1:
        raise BadWeights(
            f"{source} has one class and a softmax, which is 1 for every image; import its weights again, or set "
            '"task": "multi-label" in config.json, which makes the output the probability of that class'
        )
