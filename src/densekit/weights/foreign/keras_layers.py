"""Kinds of Keras layers, by the names that versions of Keras and TensorFlow save them under."""

from collections.abc import Mapping
from typing import Any

NESTED = ("Functional", "Sequential", "Model")
# Saved names of the same layer: TensorFlow 1.13 to 2.x, tf.compat, several devices.
_ALIASES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "FusedBatchNormalization": "BatchNormalization",
    "Convolution2D": "Conv2D",
    "AvgPool2D": "AveragePooling2D",
    "MaxPool2D": "MaxPooling2D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "FunctionalV2": "Functional",
}
# Those that change nothing in evaluation.
IDENTITY = frozenset(
    {
        *("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization"),
        *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness"),
    }
)
_MAKERS = ("keras", "tf_keras", "tensorflow")


def kind_of(layer: Mapping[str, Any]) -> str:
    """Keras's name of a layer's kind, without aliases; a class that is not Keras's own keeps its package."""
    kind, registered, module = str(layer["class_name"]), layer.get("registered_name"), layer.get("module")
    if module and str(module).partition(".")[0] not in _MAKERS:
        return str(registered or f"{module}.{kind}")
    # "keras.layers>BatchNormalization", and "Addons>X" where Keras 2 keeps a registered class's package.
    package, _, name = kind.rpartition(">")
    if package and package.partition(".")[0].lower() not in _MAKERS:
        return kind
    return _ALIASES.get(name, name)


def activation_of(kind: str, settings: Mapping[str, Any]) -> Any:
    """Its name: "relu" of a ReLU and of Activation("relu"); none for a layer without one."""
    if kind in ("ReLU", "Softmax"):
        return kind.lower()
    activation = settings.get("activation")
    if isinstance(activation, Mapping):  # a function, or a layer as an activation
        known = kind_of(activation)
        name = activation.get("config") if known == "function" else known.lower()
        return name if isinstance(name, str) else f"{known} {name}"
    return activation


def plain(value: Any) -> Any:
    """[2, 2] as 2."""
    return value[0] if isinstance(value, list) and value and value.count(value[0]) == len(value) else value
