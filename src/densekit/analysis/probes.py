"""Linear probes by depth (Alain and Bengio 2016): what a linear classifier makes of each layer's maps.

Of several labels each has a classifier of its own, and what counts is their mean AUROC.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from densekit.analysis.connectivity import Block
from densekit.analysis.image_sample import Sample
from densekit.metrics.multi_label import mean_auroc
from densekit.models import DenseNet
from densekit.models.resnet import ResNet

_ITERATIONS = 300
_OF_A_BLOCK = 8
"""Depths of a block at which all that has come so far is probed; a layer's own maps always are."""

Features = dict[str, NDArray[np.float32]]
"""By depth: (N, maps), each map's mean over its pixels, as the network's own head sees the last ones."""


@dataclass(frozen=True)
class Probes:
    """How good linear classifiers are by depth."""

    network: str
    what: str
    depths: list[str]
    position: list[float]
    """Of each depth, as a share of the network's."""
    accuracy: list[float]
    """On images that the probe was not fitted to; of several labels the mean AUROC."""


def probe(
    network: str,
    features: Callable[[Sample], dict[str, Features]],
    train: Sample,
    test: Sample,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Probes]:
    """One curve for each kind of features that `features` gives; fitted on `train`, measured on `test`."""
    score = _areas if train.multi_label else _accuracy
    fitted, measured = features(train), features(test)
    y, y_test = train.targets.cpu().numpy(), test.targets.cpu().numpy()
    every = max((list(by_depth) for by_depth in fitted.values()), key=len)  # kinds may leave depths out
    curves = []
    for what, by_depth in fitted.items():
        accuracies = []
        for depth, x in by_depth.items():
            accuracies.append(score(x, y, measured[what][depth], y_test))
            advance(1)
        position = [(every.index(depth) + 1) / len(every) for depth in by_depth]
        curves.append(Probes(network, what, list(by_depth), position, accuracies))
    return curves


def _accuracy(x: Any, y: Any, x_test: Any, y_test: Any) -> float:
    if len(np.unique(y)) < 2:
        return float((y_test == y[0]).mean())
    return float((_fitted(x, y).predict(x_test) == y_test).mean())


def _areas(x: Any, y: Any, x_test: Any, y_test: Any) -> float:
    """Mean AUROC; NaN where no label has images with and without it in both parts."""
    scores = np.zeros(y_test.shape)
    for label in range(y.shape[1]):
        known = ~np.isnan(y[:, label])
        if len(np.unique(y[known, label])) == 2:  # of a label that is not to be learned all scores are alike
            scores[:, label] = _fitted(x[known], y[known, label]).decision_function(x_test)
    area = mean_auroc(y_test, scores)
    return float("nan") if area is None else area


def _fitted(x: Any, y: Any) -> Any:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is good enough for a comparison
        return classifier.fit(x, y)


@torch.no_grad()
def densenet_features(model: DenseNet, blocks: Sequence[Block], sample: Sample) -> dict[str, Features]:
    """`own`: the k maps of each layer; `state`: all maps of the block so far, which its next layer reads."""
    pooled: list[list[Tensor]] = [[] for _ in blocks]
    for images, _ in sample.chunks():
        for parts, maps in zip(pooled, model.forward_intermediates(images)[1], strict=True):
            parts.append(maps.mean((2, 3)).cpu())
    own: Features = {}
    state: Features = {}
    for block, parts in zip(blocks, pooled, strict=True):
        x = torch.cat(parts).numpy()
        kept = set(np.unique(np.linspace(0, block.layers, min(block.layers + 1, _OF_A_BLOCK)).round().astype(int)))
        for s, channels in enumerate(block.sources):
            name = f"block {block.number}, {block.named(s)}"
            own[name] = x[:, channels]
            if s in kept:
                state[name] = x[:, : channels.stop]
    return {"state": state, "own": own}


@torch.no_grad()
def resnet_features(model: ResNet, sample: Sample) -> dict[str, Features]:
    """`state`: what the stem and each residual block hand on."""
    modules: dict[str, nn.Module] = {"stem": model.stem}
    for i, stage in enumerate(model.stages, start=1):
        modules |= {f"stage {i}, block {j}": block for j, block in enumerate(stage.children(), start=1)}
    pooled: dict[str, list[NDArray[np.float32]]] = {name: [] for name in modules}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: pooled[name].append(output.mean((2, 3)).cpu().numpy())

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        for images, _ in sample.chunks():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {"state": {name: np.concatenate(parts) for name, parts in pooled.items()}}
