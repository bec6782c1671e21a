"""Weights that tests make, in the places where default training looks for them."""

from pathlib import Path

import pytest

from densekit.config import Preprocessing
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


def ship(folder: Path, model: str = "densenet_bc_10_4", *, half: bool = False) -> Path:
    """A model of the ten classes of CIFAR-10 at 32 pixels, as the package would ship it; with `half` in float16."""
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    config = config_for(model)
    card = ModelCard(
        model=config,
        classes=tuple(names.split()),
        preprocessing=Preprocessing(channels=3, size=(32, 32), resize=32, mean=(0.5,) * 3, std=(0.25,) * 3),
    )
    state = build(config).state_dict()
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_model(folder / "cifar10", state, card)
    return folder / "cifar10"
