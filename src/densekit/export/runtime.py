"""`OnnxClassifier` by the name that docs/export.md has for it; it stands in `densekit.inference.onnx_classifier`."""

from densekit.inference.onnx_classifier import Answer, OnnxClassifier

__all__ = ["Answer", "OnnxClassifier"]
