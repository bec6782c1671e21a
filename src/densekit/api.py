"""The verbs as functions."""

from typing import TYPE_CHECKING

from densekit import lazy_imports

if TYPE_CHECKING:
    from densekit.analysis.analyse import Analysed, analyse
    from densekit.evaluation.evaluate import evaluate
    from densekit.export.export_model import ExportedModel, export_model
    from densekit.folders import data_folder
    from densekit.inference.load import load
    from densekit.publishing.push import PushedModel, push
    from densekit.runs.run_folder import claim_folder
    from densekit.runs.samples import write_samples
    from densekit.study.reproduce import Reproduced, reproduce
    from densekit.study.study import Execution, Studied, study
    from densekit.training.compose import compose
    from densekit.training.find_lr import find_lr
    from densekit.training.resume import resume
    from densekit.training.run import Run
    from densekit.training.train import train
    from densekit.weights.foreign.import_model import ImportedModel, import_model

# Looked up on first use: `densekit predict` has no need of figures, nor of what compares runs.
_HOMES = {
    "Analysed": "densekit.analysis.analyse",
    "Execution": "densekit.study.study",
    "ExportedModel": "densekit.export.export_model",
    "ImportedModel": "densekit.weights.foreign.import_model",
    "PushedModel": "densekit.publishing.push",
    "Reproduced": "densekit.study.reproduce",
    "Run": "densekit.training.run",
    "Studied": "densekit.study.study",
    "analyse": "densekit.analysis.analyse",
    "claim_folder": "densekit.runs.run_folder",
    "compose": "densekit.training.compose",
    "data_folder": "densekit.folders",
    "evaluate": "densekit.evaluation.evaluate",
    "export_model": "densekit.export.export_model",
    "find_lr": "densekit.training.find_lr",
    "import_model": "densekit.weights.foreign.import_model",
    "load": "densekit.inference.load",
    "push": "densekit.publishing.push",
    "reproduce": "densekit.study.reproduce",
    "resume": "densekit.training.resume",
    "study": "densekit.study.study",
    "train": "densekit.training.train",
    "write_samples": "densekit.runs.samples",
}
__getattr__ = lazy_imports.names(__name__, _HOMES)

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
    "claim_folder",
    "compose",
    "data_folder",
    "evaluate",
    "export_model",
    "find_lr",
    "import_model",
    "load",
    "push",
    "reproduce",
    "resume",
    "study",
    "train",
    "write_samples",
]
