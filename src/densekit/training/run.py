"""A finished training run."""

from dataclasses import dataclass
from pathlib import Path

from densekit.evaluation.evaluate import evaluate
from densekit.inference.classifier import Classifier
from densekit.inference.load import load
from densekit.metrics.task import Result


@dataclass(frozen=True)
class Run:
    """A finished training run on disk."""

    folder: Path
    result: Result
    """Metrics of the reported split, as measured at the end of training."""

    @property
    def report(self) -> Path:
        """The page with curves, metrics and mistakes."""
        return self.folder / "report.html"

    def classifier(self) -> Classifier:
        """The trained network with its classes and preprocessing."""
        return load(self.folder)

    def evaluate(
        self, data: str | Path | None = None, split: str | None = None, *, out: str | Path | None = None
    ) -> Result:
        """Measures again, on the reported split or another one; `out` is a folder for a report and predictions."""
        return evaluate(self.folder, data, split=split, out=out)
