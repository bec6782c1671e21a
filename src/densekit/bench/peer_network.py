"""torchvision's network with the weights of a model folder, and Pillow and torchvision's transforms before it."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from densekit.bench.backends import bench_backends
from densekit.config import DenseNetConfig
from densekit.weights import load_model

TOP = 3


def _resized(image: Image.Image, side: int) -> Image.Image:
    """As v2.Resize, but for the longer side, which that rounds down: then the answers are those of densekit."""
    scale = side / min(image.size)
    found: Image.Image = v2.functional.resize(image, [round(image.height * scale), round(image.width * scale)])
    return found


class Network:
    """Decoding, the network, and classes."""

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        own, card = load_model(folder, "concat")
        config, preprocessing = card.model, card.preprocessing
        assert isinstance(config, DenseNetConfig)
        peer = next(each for each in bench_backends("infer") if each.name == "torchvision")
        self.net: nn.Module = peer.build(config, own.state_dict()).eval().to(memory_format=torch.channels_last)
        self.classes = card.classes
        self.transform: Any = v2.Compose(
            [
                partial(_resized, side=preprocessing.resize),
                v2.CenterCrop(list(preprocessing.size)),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def read(self, content: bytes) -> Tensor:
        """(C, H, W)."""
        image: Tensor = self.transform(Image.open(io.BytesIO(content)).convert("RGB"))
        return image

    @torch.inference_mode()
    def answer(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """The best classes of each."""
        batch = torch.stack(list(images)).contiguous(memory_format=torch.channels_last)
        values, places = self.net(batch).softmax(1).topk(TOP)
        return [
            {"top": [{"class": self.classes[i], "probability": p} for i, p in zip(row, chances, strict=True)]}
            for row, chances in zip(places.tolist(), values.tolist(), strict=True)
        ]
