"""What Keras says of a network beside its weights: whether it is the DenseNet that densekit would make of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from densekit.errors import BadWeights
from densekit.weights.foreign.keras_layers import IDENTITY, NESTED, activation_of, kind_of, plain

# What a DenseNet is made of; anything else would change its function unseen, as it may have no weights.
_HARMLESS = frozenset(
    {
        *("InputLayer", "ZeroPadding2D", "Conv2D", "BatchNormalization", "Activation", "ReLU", "MaxPooling2D"),
        *("AveragePooling2D", "Concatenate", "GlobalAveragePooling2D", "Flatten", "Dense", "Softmax"),
        *IDENTITY,
        *NESTED,
    }
)
# What has no weights either, by kind of layer; a setting that is not there is as ours.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "Conv2D": {"dilation_rate": 1, "groups": 1, "activation": "linear"},
    "ReLU": {"max_value": None, "negative_slope": 0, "threshold": 0},
    "Softmax": {"axis": -1},
    "MaxPooling2D": {"pool_size": 3, "strides": 2},
    "AveragePooling2D": {"pool_size": 2, "strides": 2},
}
_STEM = 7  # pixels of the only kernel that is moved by two, and before the only max pooling
_END = ("linear", "softmax", None)

Layers = Sequence[tuple[str, Mapping[str, Any]]]


def layers_of(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class, settings) of every layer, also of networks within networks."""
    for layer in config["config"]["layers"]:
        kind = kind_of(layer)
        if kind in NESTED and "layers" not in layer["config"]:
            kind = "subclass of Model without layers in its config"
        yield kind, layer["config"]
        if kind in NESTED:
            yield from layers_of(layer)


def refuse_strangers(layers: Layers, shown: Path) -> None:
    """Raises BadWeights for a layer, or a setting of one, that makes another function of the same weights."""
    kernels: list[Any] = []
    size, moved = image_size(layers), 1  # pixels that one of the maps stands for
    for kind, settings in layers:
        name = settings.get("name")
        if kind not in _HARMLESS:
            raise BadWeights(
                f"{shown}: layer {name} is a {kind}, which densekit's DenseNet has no place for; "
                "save the network without it, as keras.applications builds it"
            )
        wanted = dict(_SETTINGS.get(kind, {}))
        if kind == "Conv2D":
            kernels.append(plain(settings.get("kernel_size")))
            wanted["strides"] = 2 if kernels[-1] == _STEM else 1
        for setting, ours in wanted.items():
            value = plain(settings.get(setting, ours))
            if value != ours:
                raise BadWeights(
                    f"{shown}: layer {name}, a {kind}, has {setting} {value}, where densekit's DenseNet has {ours}; "
                    "no densekit network has these weights"
                )
        moved *= wanted.get("strides", 1)
        # A mean of 2x2 pixels needs none beyond an even side.
        even = kind == "AveragePooling2D" and size is not None and not any(side % moved for side in size)
        if wanted.get("strides") == 2 and settings.get("padding") == "same" and not even:
            raise BadWeights(
                f"{shown}: layer {name}, a {kind}, moves by 2 with padding same, for which Keras pads other sides than "
                "densekit's DenseNet; no densekit network has these weights"
            )
        if kind == "MaxPooling2D" and (len(kernels) != 1 or kernels[0] not in (_STEM, None)):
            raise BadWeights(
                f"{shown}: layer {name} is a max pooling, which densekit's DenseNet has only after a first "
                f"{_STEM}x{_STEM} convolution; no densekit network has these weights"
            )
    _refuse_activations(layers, shown)


def _refuse_activations(layers: Layers, shown: Path) -> None:
    softmax = any(activation_of(*layer) == "softmax" for layer in layers)
    for place, (kind, settings) in enumerate(layers, start=1):
        known = _END if kind == "Dense" else (*_END, "relu")
        if place == len(layers) and not softmax:
            known = (*known, "sigmoid")
        if (activation := activation_of(kind, settings)) not in known:
            raise BadWeights(
                f"{shown}: layer {settings.get('name')} ends in {activation}, where densekit has a ReLU, "
                "or a softmax or sigmoid at the end; no densekit network has these weights"
            )


def last_activation(layers: Layers) -> str | None:
    """What the network ends in, if that is known."""
    return activation_of(*layers[-1]) if layers else None


def epsilons(layers: Layers) -> tuple[float, ...]:
    """All that its batch norms have."""
    return tuple(sorted({settings["epsilon"] for kind, settings in layers if kind == "BatchNormalization"}))


def image_size(layers: Layers) -> tuple[int, int] | None:
    """(height, width), if it says so."""
    for kind, settings in layers:
        shape = settings.get("batch_shape") or settings.get("batch_input_shape")
        if kind == "InputLayer" and shape and len(shape) == 4 and shape[1] and shape[2]:
            return int(shape[1]), int(shape[2])
    return None
