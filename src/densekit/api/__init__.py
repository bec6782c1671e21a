"""The verbs as functions."""

from typing import TYPE_CHECKING

from densekit import lazily

if TYPE_CHECKING:
    from densekit.api.analysing import Analysed, analyse
    from densekit.api.evaluation import evaluate
    from densekit.api.exporting import ExportedModel, export_model
    from densekit.api.importing import ImportedModel, import_model
    from densekit.api.lr_finding import find_lr
    from densekit.api.pushing import PushedModel, push
    from densekit.api.reproducing import Reproduced, reproduce
    from densekit.api.run import Run, claim_folder, data_folder, load, write_samples
    from densekit.api.studying import Execution, Studied, study
    from densekit.api.training import compose, resume, train

# Looked up on first use: `densekit predict` has no need of figures, nor of what compares runs.
_HOMES = {
    "Analysed": "densekit.api.analysing",
    "Execution": "densekit.api.studying",
    "ExportedModel": "densekit.api.exporting",
    "ImportedModel": "densekit.api.importing",
    "PushedModel": "densekit.api.pushing",
    "Reproduced": "densekit.api.reproducing",
    "Run": "densekit.api.run",
    "Studied": "densekit.api.studying",
    "analyse": "densekit.api.analysing",
    "claim_folder": "densekit.api.run",
    "compose": "densekit.api.training",
    "data_folder": "densekit.api.run",
    "evaluate": "densekit.api.evaluation",
    "export_model": "densekit.api.exporting",
    "find_lr": "densekit.api.lr_finding",
    "import_model": "densekit.api.importing",
    "load": "densekit.api.run",
    "push": "densekit.api.pushing",
    "reproduce": "densekit.api.reproducing",
    "resume": "densekit.api.training",
    "study": "densekit.api.studying",
    "train": "densekit.api.training",
    "write_samples": "densekit.api.run",
}
__getattr__ = lazily.names(__name__, _HOMES)

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
