"""Keras's files, written without Keras: a torch state dict in each of its layouts."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

EPS = 1.001e-5  # of keras.applications


def keras_layers(state: dict[str, Tensor], mark: str = "_") -> dict[str, dict[str, Any]]:
    """Layers by keras.applications' names, in the order of execution; `mark` is / in Keras 2."""
    layers: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        path, _, parameter = key.rpartition(".")
        if parameter == "num_batches_tracked":
            continue
        norm = "norm" in path
        weight = {
            "weight": "gamma" if norm else "kernel",
            "bias": "beta" if norm else "bias",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }[parameter]
        array = value.numpy()
        if weight == "kernel":
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        layers.setdefault(_layer(path, mark), {})[weight] = array
    return layers


def _layer(path: str, mark: str) -> str:
    if match := re.fullmatch(r"features\.denseblock(\d)\.denselayer(\d+)\.(\w+)", path):
        part = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}[match[3]]
        return f"conv{int(match[1]) + 1}_block{match[2]}_{part}"
    if match := re.fullmatch(r"features\.transition(\d)\.(\w+)", path):
        return f"pool{int(match[1]) + 1}_{'bn' if match[2] == 'norm' else 'conv'}"
    return {
        "features.conv0": f"conv1{mark}conv",
        "features.norm0": f"conv1{mark}bn",
        "features.norm5": "bn",
        "classifier": "predictions",
    }[path]


def config_of(layers: dict[str, dict[str, Any]], size: int = 64, *extra: dict[str, Any]) -> dict[str, Any]:
    """What Keras 2 says of a network: every layer and what it reads; `extra` layers follow the last."""
    entries: list[dict[str, Any]] = []

    def add(kind: str, called: str, *reads: str, **settings: Any) -> str:
        inbound = [[[read, 0, 0, {}] for read in reads]] if reads else []
        settings = {"name": called} | settings
        entries.append({"class_name": kind, "name": called, "config": settings, "inbound_nodes": inbound})
        return called

    last = start = add("InputLayer", "input_layer", batch_shape=[None, size, size, 3])
    for name, weights in layers.items():
        if "gamma" in weights:
            start = last if name.endswith("_0_bn") else start
            last = add("BatchNormalization", name, last, epsilon=EPS, scale=True, center=True, axis=[3])
            last = add("Activation", f"{name}_relu", last, activation="relu")
            if name == "conv1_bn":
                last = add("ZeroPadding2D", "pool1_pad", last, padding=[[1, 1], [1, 1]])
                last = add("MaxPooling2D", "pool1", last, pool_size=[3, 3], strides=[2, 2], padding="valid")
        elif weights["kernel"].ndim == 2:
            last = add("GlobalAveragePooling2D", "avg_pool", last)
            last = add("Dense", name, last, activation="softmax")
        else:
            side = weights["kernel"].shape[0]
            if side == 7:
                last = add("ZeroPadding2D", "conv1_pad", last, padding=[[3, 3], [3, 3]])
            settings: dict[str, Any] = {"kernel_size": [side] * 2, "strides": [2 if side == 7 else 1] * 2}
            settings |= {"padding": "same" if side == 3 else "valid", "activation": "linear"}
            last = add("Conv2D", name, last, **settings, dilation_rate=[1, 1], groups=1)
            if name.endswith("_2_conv"):
                last = add("Concatenate", f"{name}_concat", start, last, axis=3)
            elif name.startswith("pool"):
                last = add("AveragePooling2D", f"{name}_pool", last, pool_size=[2, 2], strides=[2, 2], padding="valid")
    for layer in extra:
        last = add(layer["class_name"], layer["config"]["name"], last, **layer["config"])
    network = {"name": "densenet", "layers": entries, "output_layers": [[last, 0, 0]]}
    return {"class_name": "Functional", "config": network}


def write_h5(path: Path, layers: dict[str, dict[str, Any]], *, config: Any = None, keras2: bool = False) -> Path:
    """model.save("x.h5") with `config`, else model.save_weights("x.h5") of Keras 2."""
    h5py = pytest.importorskip("h5py", reason="h5py, of the extras keras and test, is not installed")
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if config else file
        if config:
            file.attrs["model_config"] = json.dumps(config)
        group.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers)]
        group.create_group("input_1").attrs["weight_names"] = []
        for name in sorted(layers):
            layer = group.create_group(name)
            ends = [f"{name}/{weight}{':0' if keras2 else ''}" for weight in layers[name]]
            layer.attrs["weight_names"] = [end.encode() for end in ends]
            for end, array in zip(ends, layers[name].values(), strict=True):
                layer.create_dataset(end, data=array)
    return path


def write_keras3_weights(path: Path, layers: dict[str, dict[str, Any]]) -> Path:
    """model.save_weights("x.weights.h5") of Keras 3, which numbers layers by kind."""
    h5py = pytest.importorskip("h5py", reason="h5py, of the extras keras and test, is not installed")
    seen: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for weights in layers.values():
            kind = "batch_normalization" if "gamma" in weights else "conv2d" if weights["kernel"].ndim == 4 else "dense"
            number = seen.get(kind, 0)
            seen[kind] = number + 1
            place = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
            for i, array in enumerate(weights.values()):
                place.create_dataset(str(i), data=array)
    return path


def write_keras(path: Path, layers: dict[str, dict[str, Any]], config: Any) -> Path:
    """model.save("x.keras")."""
    weights = write_keras3_weights(path.with_suffix(".weights.h5"), layers)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.write(weights, "model.weights.h5")
    weights.unlink()
    return path
