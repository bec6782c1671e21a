"""An exported file in the place of a network: what predicts and measures a model folder does the same with it."""

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from densekit.config import describe
from densekit.errors import BadWeights
from densekit.folders import expanded
from densekit.inference import triton_folder
from densekit.inference.metadata import Metadata
from densekit.inference.runtimes import OPENERS, InferenceSession, open_file
from densekit.weights import ModelCard
from densekit.weights.hub import is_address


class ExportedNetwork(nn.Module):
    """(N, C, H, W) float32, preprocessed as `passport.outside` says -> (N, classes) logits; without gradients."""

    def __init__(self, opened: InferenceSession, passport: Metadata) -> None:
        super().__init__()
        self.opened = opened
        self.passport = passport

    def forward(self, images: Tensor) -> Tensor:
        """By the file's own runtime, on the CPU."""
        if self.passport.inside:
            # The rest of preprocessing divided 8-bit values by 255, and nothing else.
            images = images.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(self.opened.run(images.numpy())).to(torch.float32)


def is_exported(source: str | Path) -> bool:
    """Whether MODEL names an exported file or a Triton folder, by its form."""
    if is_address(source):  # a repository may be called net.onnx
        return False
    path = expanded(source)
    return path.suffix.lower() in OPENERS or (path / triton_folder.CONFIG).is_file() or _served_alone(path) is not None


def load_exported(source: str | Path, threads: int | None = None) -> tuple[ExportedNetwork, ModelCard]:
    """The network, and its card with the preprocessing that is left to do outside.

    Raises BadWeights for a missing, damaged or foreign file, InvalidInput where its runtime is not installed.
    """
    path = expanded(source)
    if path.is_dir():
        path = triton_folder.model_file(_served_alone(path) or path)
    opened = open_file(path, threads)
    passport = opened.passport(path)
    try:
        card = ModelCard.model_validate(passport.card)
    except ValidationError as error:
        raise BadWeights(f"{path} holds no valid card: {describe(error)}; export it again") from error
    return ExportedNetwork(opened, passport), card.model_copy(update={"preprocessing": passport.outside})


def _served_alone(path: Path) -> Path | None:
    """The only model of a Triton repository."""
    found = sorted(path.glob(f"*/{triton_folder.CONFIG}")) if path.is_dir() else []
    return found[0].parent if len(found) == 1 else None
