"""DenseNet for PyTorch. The names below are the public interface; everything else may move between releases."""

from typing import TYPE_CHECKING

from densekit import lazy_imports
from densekit.version import __version__

if TYPE_CHECKING:
    from densekit.api import Run, analyse, evaluate, export_model, find_lr, import_model, load, push, resume, train
    from densekit.config import Recipe
    from densekit.inference.classifier import Classifier, Prediction
    from densekit.metrics.multi_label import MultiLabelResult
    from densekit.metrics.single_label import Result
    from densekit.models import ImageClassifier, create_model, model_names

# Looked up on first use: `densekit --help` must not wait for torch.
_HOMES = {
    "Classifier": "densekit.inference.classifier",
    "ImageClassifier": "densekit.models",
    "MultiLabelResult": "densekit.metrics.multi_label",
    "Prediction": "densekit.inference.classifier",
    "Recipe": "densekit.config",
    "Result": "densekit.metrics.single_label",
    "Run": "densekit.api",
    "analyse": "densekit.api",
    "create_model": "densekit.models",
    "evaluate": "densekit.api",
    "export_model": "densekit.api",
    "find_lr": "densekit.api",
    "import_model": "densekit.api",
    "load": "densekit.api",
    "model_names": "densekit.models",
    "push": "densekit.api",
    "resume": "densekit.api",
    "train": "densekit.api",
}
__getattr__ = lazy_imports.names(__name__, _HOMES)

__all__ = [
    "Classifier",
    "ImageClassifier",
    "MultiLabelResult",
    "Prediction",
    "Recipe",
    "Result",
    "Run",
    "__version__",
    "analyse",
    "create_model",
    "evaluate",
    "export_model",
    "find_lr",
    "import_model",
    "load",
    "model_names",
    "push",
    "resume",
    "train",
]


def __dir__() -> list[str]:
    return __all__
