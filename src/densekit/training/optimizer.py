"""Optimisers by name."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from typing import Any, cast

import torch
from torch import nn

from densekit.config import OptimizerConfig
from densekit.errors import InvalidInput
from densekit.models import ImageClassifier
from densekit.weights.shapes import head_of

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
    head = _head(model, named) if config.body_lr < 1 else {*named}
    groups: _Groups = [
        {
            "params": [p for name, p in named.items() if (name in head) is of_head and (name in free) is not decays],
            **({} if decays else {"weight_decay": 0.0}),
            **({} if of_head else {"lr_factor": config.body_lr}),
        }
        for of_head in (True, False)
        for decays in (True, False)
    ]
    return _OPTIMIZERS[config.name]([group for group in groups if group["params"]], config)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step: `rate` for the head, `body_lr` of it for all else."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)


def _head(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Those of the parameters that follow from the number of classes."""
    head = set(head_of(cast(ImageClassifier, model).config))  # type: ignore[arg-type]  # built from a ModelConfig
    return {name for name in names if name.removeprefix("net.") in head}  # another library's network is in `net`


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
