"""Training, evaluation and prediction."""

from densekit.engine.choice import choose
from densekit.engine.classifier import Classifier, Prediction
from densekit.engine.evaluate import evaluate
from densekit.engine.forecast import forecast_of
from densekit.engine.setup import prepare
from densekit.engine.task import Result
from densekit.engine.train import fit

__all__ = ["Classifier", "Prediction", "Result", "choose", "evaluate", "fit", "forecast_of", "prepare"]
