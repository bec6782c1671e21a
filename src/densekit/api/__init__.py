"""The verbs as functions."""

from densekit.api.analysing import Analysed, analyse
from densekit.api.evaluation import evaluate
from densekit.api.exporting import ExportedModel, export_model
from densekit.api.importing import ImportedModel, import_model
from densekit.api.pushing import PushedModel, push
from densekit.api.run import Run, data_folder, free_folder, load, write_samples
from densekit.api.training import compose, resume, train

__all__ = [
    "Analysed",
    "ExportedModel",
    "ImportedModel",
    "PushedModel",
    "Run",
    "analyse",
    "compose",
    "data_folder",
    "evaluate",
    "export_model",
    "free_folder",
    "import_model",
    "load",
    "push",
    "resume",
    "train",
    "write_samples",
]
