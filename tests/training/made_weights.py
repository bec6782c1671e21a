"""Weights that tests make, in the places where default training looks for them."""

import hashlib
import io
import re
from pathlib import Path

import pytest
import torch
import torchvision.models as peers
from torch import Tensor

from densekit.config import DataConfig, Preprocessing
from densekit.models import build, config_for
from densekit.weights import ModelCard, save_model


def no_network(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """Nothing but what is in torch.hub's folder below `home`, which is returned, can be had of torchvision."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    (folder := home / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return folder


def torchvision_file(
    monkeypatch: pytest.MonkeyPatch, folder: Path, network: str = "densenet121"
) -> tuple[Path, dict[str, Tensor]]:
    """Weights in `folder`, in the form of torchvision's older files, and the state dict of today's names.

    torchvision's registry then has this file's name, with the hash that this file has. Its DenseNets were saved with
    dots inside names, before batch norm counted its batches, and before torch wrote zip files.
    """
    state = peers.get_model(network).state_dict()
    for name, value in state.items():
        if name.endswith(("running_mean", "running_var")):
            value += 0.01 * torch.rand_like(value)  # statistics that no new network has
    pattern = r"(denselayer\d+\.(?:norm|conv))([12])"
    old = {re.sub(pattern, r"\1.\2", key): value for key, value in state.items() if "num_batches" not in key}
    content = io.BytesIO()
    torch.save(old, content, _use_new_zipfile_serialization=False)
    name = f"{network}-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth"
    registered = peers.get_model_weights(network).DEFAULT
    monkeypatch.setattr(registered.value, "url", f"https://download.pytorch.org/models/{name}")
    (folder / name).write_bytes(content.getvalue())
    return folder / name, state


def ship(folder: Path, model: str = "densenet_bc_10_4", *, half: bool = False) -> Path:
    """A model of the ten classes of CIFAR-10 at 32 pixels, as the package would ship it; with `half` in float16."""
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    config = config_for(model)
    card = ModelCard(
        model=config,
        classes=tuple(names.split()),
        preprocessing=Preprocessing(channels=3, size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3),
        data=DataConfig(source="cifar10"),
    )
    state = build(config).state_dict()
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_model(folder / "cifar10", state, card)
    return folder / "cifar10"
