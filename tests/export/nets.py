"""Model folders of untrained networks whose statistics are as after training, so that their answers differ."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from densekit.bench.workload import settle
from densekit.config import DataConfig, Preprocessing
from densekit.models import create_model
from densekit.weights import ModelCard, save_model


def write_net(folder: Path, name: str, *, data: DataConfig | None = None, **settings: Any) -> Path:
    """A model folder with drawn gammas and betas: fresh ones would hide what is folded wrongly."""
    torch.manual_seed(0)
    model = create_model(name, plan="concat", **settings)
    config = model.config
    settle(model, torch.randn(8, config.in_channels, *config.image_size))
    head = model.eval().get_submodule("classifier")
    nn.init.normal_(head.get_parameter("weight"), std=1.0)  # far apart, so that rounding makes no ties
    preprocessing = Preprocessing(
        channels=config.in_channels,
        size=config.image_size,
        resize=min(config.image_size),
        mean=(0.4, 0.5, 0.6)[: config.in_channels],
        std=(0.2, 0.25, 0.3)[: config.in_channels],
    )
    classes = tuple(f"class {i}" for i in range(config.num_classes))
    card = ModelCard(model=config, classes=classes, preprocessing=preprocessing, data=data)
    save_model(folder, model.state_dict(), card)
    return folder
