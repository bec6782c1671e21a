"""The verbs as functions."""

from densekit.api.analysing import Analysed, analyse
from densekit.api.evaluation import evaluate
from densekit.api.exporting import ExportedModel, export_model
from densekit.api.importing import ImportedModel, import_model
from densekit.api.pushing import PushedModel, push
from densekit.api.reproducing import Reproduced, reproduce
from densekit.api.run import Run, data_folder, free_folder, load, write_samples
from densekit.api.studying import Execution, Studied, study
from densekit.api.training import compose, resume, train

__all__ = [
    "Analysed",
    "Execution",
    "ExportedModel",
    "ImportedModel",
    "PushedModel",
    "Reproduced",
    "Run",
    "Studied",
    "analyse",
    "compose",
    "data_folder",
    "evaluate",
    "export_model",
    "free_folder",
    "import_model",
    "load",
    "push",
    "reproduce",
    "resume",
    "study",
    "train",
    "write_samples",
]
