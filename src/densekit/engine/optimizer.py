"""Optimisers by name."""

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from densekit.config import OptimizerConfig
from densekit.errors import InvalidInput

_Groups = list[dict[str, Any]]


def optimizer_for(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Over all trainable parameters; the paper decays batch norm and biases too (sec. 4.2).

    Raises InvalidInput where `no_decay` fits no parameter.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    free = {name for name in named if any(fnmatch(name, pattern) for pattern in config.no_decay)}
    if config.no_decay and not free:
        raise InvalidInput(
            f"optimizer.no_decay: no parameter is named like {', '.join(config.no_decay)}; there are "
            f"{', '.join([*named][:4])}, ..."
        )
    groups: _Groups = [
        {"params": [p for name, p in named.items() if name not in free]},
        {"params": [p for name, p in named.items() if name in free], "weight_decay": 0.0},
    ]
    return _OPTIMIZERS[config.name]([group for group in groups if group["params"]], config)


def _sgd(groups: _Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def _adamw(groups: _Groups, config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


_OPTIMIZERS: dict[str, Callable[[_Groups, OptimizerConfig], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}
