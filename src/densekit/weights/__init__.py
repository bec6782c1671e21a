"""Files of weights: safetensors and JSON, written atomically, never pickles."""

from densekit.weights.folder import ModelCard, load_model, read_card, save_model
from densekit.weights.hub import resolve_revision
from densekit.weights.resolve import model_folder, open_model, shipped_names

__all__ = [
    "ModelCard",
    "load_model",
    "model_folder",
    "open_model",
    "read_card",
    "resolve_revision",
    "save_model",
    "shipped_names",
]
