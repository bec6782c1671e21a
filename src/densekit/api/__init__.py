"""The verbs as functions."""

from densekit.api.evaluation import evaluate
from densekit.api.run import Run, data_folder, free_folder, load, write_samples
from densekit.api.training import compose, resume, train

__all__ = ["Run", "compose", "data_folder", "evaluate", "free_folder", "load", "resume", "train", "write_samples"]
