"""Peers that would not go well with the rest of the tests' process, each in its own: PEER FOLDER.

Leaves their files in FOLDER, and images (N, C, H, W) with the logits that the peer makes of them.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.weights.peers import perturb

FILES = {
    "keras": ("keras.h5", "keras.keras", "keras.weights.h5"),
    "monai": ("monai.pth",),
    "torchxrayvision": ("torchxrayvision.pth",),
}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def monai(folder: Path) -> tuple[Tensor, Tensor]:
    from monai.networks.nets.densenet import DenseNet121

    net = perturb(DenseNet121(spatial_dims=2, in_channels=3, out_channels=7))
    torch.save({"model": net.state_dict()}, folder / "monai.pth")
    return IMAGES, net(IMAGES)


def torchxrayvision(folder: Path) -> tuple[Tensor, Tensor]:
    from torchxrayvision.models import DenseNet

    net = perturb(DenseNet(in_channels=1, num_classes=18))
    images = IMAGES[:, :1].contiguous()
    logits = net(images)  # with its operating points set, it would give calibrated probabilities
    net.op_threshs = torch.rand(18)
    torch.save(net.state_dict(), folder / "torchxrayvision.pth")
    return images, logits


def keras(folder: Path) -> tuple[Tensor, Tensor]:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as library

    net: Any = library.applications.DenseNet121(
        weights=None, input_shape=(64, 64, 3), classes=7, classifier_activation=None
    )
    random = np.random.default_rng(0)
    for layer in net.layers:
        arrays = layer.get_weights()
        if type(layer).__name__ == "BatchNormalization":
            gamma, beta, mean, variance = (random.random(array.shape, dtype=np.float32) for array in arrays)
            layer.set_weights([gamma + 0.5, beta - 0.5, mean - 0.5, variance + 0.5])
        elif arrays:
            # Twice that before a ReLU, as He et al. 2015; logits of about 1 make differences of 1e-5 say something.
            gain = 2 if arrays[0].ndim == 4 else 0.1
            deviation = (gain / np.prod(arrays[0].shape[:-1])) ** 0.5
            layer.set_weights([random.normal(0, deviation, array.shape).astype(np.float32) for array in arrays])
    net.save(folder / "keras.h5")
    net.save(folder / "keras.keras")
    net.save_weights(folder / "keras.weights.h5")
    logits = net(IMAGES.permute(0, 2, 3, 1).numpy(), training=False)
    return IMAGES, torch.as_tensor(logits.detach().cpu().numpy())


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    images, logits = {"keras": keras, "monai": monai, "torchxrayvision": torchxrayvision}[name](folder)
    save_file({"images": images, "logits": logits.detach().contiguous()}, folder / "logits.safetensors")


if __name__ == "__main__":
    main()
