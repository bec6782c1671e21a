"""Training, evaluation and prediction."""

from densekit.engine.classifier import Classifier, Prediction
from densekit.engine.evaluate import Result, evaluate
from densekit.engine.setup import plan_of, prepare
from densekit.engine.train import fit

__all__ = ["Classifier", "Prediction", "Result", "evaluate", "fit", "plan_of", "prepare"]
