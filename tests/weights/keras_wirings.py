"""DenseNets as people build them in Keras, each wired in another way: FOLDER.

Leaves NAME.h5, NAME.keras, and NAME.npz with images (N, H, W, C) and the logits that Keras computes, in FOLDER.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"

import keras
from keras import layers

_SIZE, _GROWTH = 16, 4


class Builder:
    """Builds a small DenseNet; settings say what is other than in the paper's authors' code."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def network(self) -> Any:
        image = layers.Input((_SIZE, _SIZE, 3), name="image")
        x = self.stem(image)
        for block, count in enumerate((2, 1, 1)):
            x = self.block(x, count)
            if block < 2:
                x = self.transition(x, relu=block not in self.settings.get("linear_transitions", ()))
        x = layers.BatchNormalization(name="last_norm")(x)
        if self.settings.get("last_relu", True):
            x = layers.Activation("relu")(x)
        return keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D(name="pooled")(x)))

    def stem(self, image: Any) -> Any:
        step = self.settings.get("stem_stride", 1)
        x = self.conv(8, 3, strides=step)(image if step == 1 else layers.ZeroPadding2D(1)(image))
        if self.settings.get("stem_norm"):
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x)) if self.settings.get("stem_pool") else x

    def conv(self, channels: int, side: int, strides: int = 1) -> Any:
        padding = "valid" if strides > 1 else "same"
        return layers.Conv2D(channels, side, strides, padding, use_bias=self.settings.get("bias", False))

    def block(self, x: Any, count: int) -> Any:
        seen = [x]
        for _ in range(count):
            norm = layers.BatchNormalization()
            h = norm(x, training=True) if self.settings.get("training") else norm(x)
            h = self.conv(4 * _GROWTH, 1)(layers.Activation("relu")(h))
            h = layers.BatchNormalization()(h)
            if self.settings.get("second_relu", True):
                h = layers.ReLU()(h)
            if not self.settings.get("pad", True):
                h = layers.Conv2D(_GROWTH, 3, use_bias=False)(layers.ZeroPadding2D(((0, 2), (2, 0)))(h))
            else:
                h = self.conv(_GROWTH, 3)(h)
            seen.append(layers.Dropout(0.2)(h))
            order = self.settings.get("order", "old first")
            if order == "list":
                x = layers.Concatenate()(seen[::-1])
            else:
                x = layers.Concatenate()([x, seen[-1]] if order == "old first" else [seen[-1], x])
        return layers.Add()([x, x]) if self.settings.get("shortcut") else x

    def transition(self, x: Any, *, relu: bool) -> Any:
        x = layers.BatchNormalization()(x)
        x = layers.Activation("relu")(x) if relu else x
        conv, pool = self.conv(x.shape[-1] // 2, 1), layers.AveragePooling2D(2)
        return conv(pool(x)) if self.settings.get("pool_first") else pool(conv(x))


def nested(kind: str) -> Any:
    """A network within another, as for fine-tuning."""
    whole = Builder().network()
    base = keras.Model(whole.input, whole.get_layer("pooled").input)
    head = [layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(4)]
    if kind == "Sequential":
        return keras.Sequential([layers.Input((_SIZE, _SIZE, 3)), layers.RandomFlip(), base, *head])
    x = image = layers.Input((_SIZE, _SIZE, 3))
    x = base(x, training=False)
    for layer in head:
        x = layer(x)
    return keras.Model(image, x)


NETWORKS = {
    "as ours": Builder().network,
    "new maps first": Builder(order="new first").network,
    "all maps in one list, backwards": Builder(order="list").network,
    "transitions without ReLU": Builder(linear_transitions=(0, 1)).network,
    "pooling before the transition's convolution": Builder(pool_first=True).network,
    "biases": Builder(bias=True, order="new first").network,
    "stem with batch norm": Builder(stem_norm=True).network,
    "nested in a Sequential": lambda: nested("Sequential"),
    "nested in a Functional": lambda: nested("Functional"),
    "no last ReLU": Builder(last_relu=False).network,
    "no second ReLU": Builder(second_relu=False).network,
    "a transition without ReLU": Builder(linear_transitions=(1,)).network,
    "lopsided padding": Builder(pad=False).network,
    "called in training": Builder(training=True).network,
    "stem pooled": Builder(stem_norm=True, stem_pool=True).network,
    "stem moved by 2": Builder(stem_stride=2).network,
    "a shortcut": Builder(shortcut=True).network,
}


def main() -> None:
    folder = Path(sys.argv[1])
    random = np.random.default_rng(0)
    images = random.normal(size=(2, _SIZE, _SIZE, 3)).astype(np.float32)
    for name, build in NETWORKS.items():
        network = build()
        for weight in network.weights:
            low = 0.5 if weight.path.endswith(("gamma", "moving_variance")) else -0.5
            if not weight.path.endswith(("kernel", "seed_generator_state")):
                weight.assign(random.random(weight.shape) + low)
        network.save(folder / f"{name}.h5")
        network.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", images=images, logits=network(images, training=False).detach().cpu().numpy())


if __name__ == "__main__":
    main()
