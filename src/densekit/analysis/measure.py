"""All that is measured of one network, or of several that differ only in their seed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from densekit.analysis import (
    ablation,
    activation_maps,
    error_metrics,
    gradients,
    observations,
    probes,
    reuse,
    stochastic,
)
from densekit.analysis.ablation import Ablation
from densekit.analysis.connectivity import Block, blocks_of
from densekit.analysis.gradients import Flow
from densekit.analysis.image_sample import Sample, untrained
from densekit.analysis.measurements import Analysis, BlockReuse, Counting, Edges, Request
from densekit.analysis.observations import Observation
from densekit.analysis.probes import Features, Probes
from densekit.config import DenseNetConfig
from densekit.errors import InvalidInput
from densekit.models import DenseNet
from densekit.models.cost import cost_of
from densekit.models.resnet import ResNet
from densekit.weights import ModelCard

_BUDGET = 1e13  # multiply-accumulates of an ablation, some minutes on two cores
_ENOUGH, _FEW = 500, 8  # images


def run(request: Request, data: tuple[str, str] | None, counting: Counting) -> Analysis:
    """Everything in `request.parts`; `data` are the names of the data and split; `counting` shows progress.

    Raises InvalidInput for a network that is no DenseNet, or twins that are others; NotFinite for outputs that are not
    finite.
    """
    network, test = request.network, request.test
    blocks = blocks_of(network.model, network.name)
    model, card = network.model, network.card
    assert isinstance(model, DenseNet)
    assert isinstance(card.model, DenseNetConfig)
    for twin in request.twins:
        if _architecture(twin.card) != _architecture(card):
            raise InvalidInput(
                f"{twin.name} is not the same network as {network.name}; --twin takes one that differs only in its seed"
            )
    if request.beside is not None and request.beside.card.classes != card.classes:
        raise InvalidInput(
            f"{request.beside.name} knows other classes than {network.name}; --beside takes a network trained on the "
            "same data"
        )
    accuracy = 1 - error_metrics.error_of(model, test) if test is not None else None
    control = untrained(card, test)
    assert isinstance(control, DenseNet)
    cut = curves = None
    if test is not None and "ablation" in request.parts:
        cut, curves = _ablate(request, model, blocks, test, counting)
    found = _reuse(request, blocks, control, cut)
    flows = matched = None
    if test is not None and "gradients" in request.parts:
        flows, matched = _gradients(request, control, test)
    curves_by_depth = None
    if test is not None and request.train is not None and "probes" in request.parts:
        curves_by_depth = _probes(request, blocks, control, counting)
    return Analysis(
        model=network.name,
        twins=[twin.name for twin in request.twins],
        data=data[0] if data else None,
        split=data[1] if data else None,
        images=len(test) if test else 0,
        blocks=found,
        observations=_observations(request, blocks, found, control),
        edges=curves,
        gradients=flows,
        matched=matched,
        probes=curves_by_depth,
        accuracy=accuracy,
        maps=activation_maps.activation_maps(model, card, test)
        if test is not None and "maps" in request.parts
        else None,
        metric="AUROC" if card.task == "multi-label" else "accuracy",
    )


def _architecture(card: ModelCard) -> dict[str, Any]:
    return card.model.model_dump(exclude={"name"})


def affordable(config: DenseNetConfig, blocks: Sequence[Block]) -> int:
    """Images for an ablation of every connection: each costs about half a forward pass."""
    connections = sum(len(list(block.edges())) for block in blocks)
    return int(np.clip(_BUDGET / (connections * cost_of(config).macs / 2), _FEW, _ENOUGH))


def _ablate(
    request: Request, model: DenseNet, blocks: Sequence[Block], test: Sample, counting: Counting
) -> tuple[Ablation, Edges]:
    config = request.network.card.model
    assert isinstance(config, DenseNetConfig)
    sample = test.first(request.ablation_images or affordable(config, blocks))
    _, unseen = sample.halves()
    connections = sum(len(list(block.edges())) for block in blocks)
    with counting("cutting connections", connections * len(sample)) as advance:
        cut = ablation.ablate(model, blocks, sample, advance)
    # An order is judged on images that did not make it: on its own it would look too good.
    order = cut.ranking(slice(None, None, 2))
    gamma = [reuse.by_gamma(block) for block in blocks]
    by_weight = sorted(order, key=lambda edge: gamma[edge[0]][edge[1:]])
    orders = {"least missed first": order, "least gamma-weighted weight first": by_weight}
    orders |= ablation.random_orders(sorted(order))
    points = len(ablation.steps(len(order))) * len(orders)
    with counting("removing connections", points * len(unseen)) as advance:
        curves = ablation.remove(model, blocks, orders, unseen if len(unseen) else sample, advance)
    rises, errors = cut.maps(blocks)
    ranking: list[dict[str, Any]] = [
        {
            "block": b + 1,
            "source": blocks[b].named(s),
            "reader": blocks[b].readers[r].name,
            "rise": float(rises[b][s, r]),
            "error": float(errors[b][s, r]),
        }
        for b, s, r in cut.ranking()
    ]
    missed = sum(row["rise"] > 2 * row["error"] for row in ranking)
    return cut, Edges(len(sample), float(cut.losses.mean()), ranking, missed, curves, len(unseen) or len(sample))


def _reuse(request: Request, blocks: Sequence[Block], control: DenseNet, cut: Ablation | None) -> list[BlockReuse]:
    test = request.test
    fresh = blocks_of(control)
    model = request.network.model
    assert isinstance(model, DenseNet)
    rises, errors = cut.maps(blocks) if cut else ([], [])
    active = reuse.by_activation(model, blocks, test) if test is not None else None
    inactive = reuse.by_activation(control, fresh, test) if test is not None else None
    lengths = [block.layers for block in blocks]
    found = []
    for i, (block, other) in enumerate(zip(blocks, fresh, strict=True)):
        weight, at_first = reuse.by_weight(block), reuse.by_weight(other)
        probability = stochastic.connection_map(lengths, i)
        found.append(
            BlockReuse(
                block=block.number,
                sources=[block.named(s) for s in range(len(block.sources))],
                readers=[reader.name for reader in block.readers],
                weight=weight,
                gamma=reuse.by_gamma(block),
                activation=active[i] if active else None,
                ablation=rises[i] if cut else None,
                ablation_error=errors[i] if cut else None,
                untrained_weight=at_first,
                untrained_activation=inactive[i] if inactive else None,
                stochastic_depth=probability,
                agreement=stochastic.agreement(weight, probability),
                untrained_agreement=stochastic.agreement(at_first, probability),
            )
        )
    return found


def _observations(
    request: Request, blocks: Sequence[Block], found: Sequence[BlockReuse], control: DenseNet
) -> dict[str, list[Observation]]:
    twins = [(twin.model, blocks_of(twin.model, twin.name)) for twin in request.twins]
    fresh = blocks_of(control)
    weight = [[b.weight for b in found], *([reuse.by_weight(b) for b in theirs] for _, theirs in twins)]
    gamma = [[b.gamma for b in found], *([reuse.by_gamma(b) for b in theirs] for _, theirs in twins)]
    seen = {
        "weight": observations.observe(weight, [b.untrained_weight for b in found]),
        # Before training every gamma is 1.
        "gamma": observations.observe(gamma, [reuse.by_gamma(b) for b in fresh]),
    }
    own = [b.activation for b in found if b.activation is not None]
    before = [b.untrained_activation for b in found if b.untrained_activation is not None]
    if request.test is not None and own:
        theirs = [reuse.by_activation(m, b, request.test) for m, b in twins if isinstance(m, DenseNet)]
        seen["activation"] = observations.observe([own, *theirs], before)
    rises = [np.maximum(b.ablation, 0) for b in found if b.ablation is not None]  # a gain is no use of a source
    if rises:
        seen["ablation"] = observations.observe([rises], None)
    return seen


def _gradients(request: Request, control: DenseNet, test: Sample) -> tuple[list[Flow], str]:
    network = request.network
    config = network.card.model
    assert isinstance(config, DenseNetConfig)
    name = config.name
    few = test.first(128 if config.stem == "cifar" else 16)
    beside = request.beside
    other = beside.card.model if beside is not None else gradients.matched(config, cost_of(config).depth)
    card = network.card.model_copy(update={"model": other})
    flows = [
        gradients.flow(name, "untrained", control, few),
        gradients.flow(name, "trained", network.model, few),
        gradients.flow(other.name, "untrained", untrained(card, few), few),
    ]
    if beside is not None:
        flows.append(gradients.flow(other.name, "trained", beside.model, few))
    return flows, other.name


def _probes(request: Request, blocks: Sequence[Block], control: DenseNet, counting: Counting) -> list[Probes]:
    train, test, model = request.train, request.test, request.network.model
    assert train is not None
    assert test is not None
    assert isinstance(model, DenseNet)
    name = request.network.card.model.name

    def of(network: DenseNet, its: Sequence[Block]) -> Callable[[Sample], dict[str, Features]]:
        return lambda sample: probes.densenet_features(network, its, sample)

    with counting("fitting linear probes", 4 * sum(block.layers + 1 for block in blocks)) as advance:
        found = probes.probe(name, of(model, blocks), train, test, advance)
        untrained_curves = probes.probe(f"{name}, untrained", of(control, blocks_of(control)), train, test, advance)
        found += [curve for curve in untrained_curves if curve.what == "state"]
        if request.beside is not None and isinstance(request.beside.model, ResNet):
            resnet = request.beside.model
            found += probes.probe(
                resnet.config.name, lambda sample: probes.resnet_features(resnet, sample), train, test, advance
            )
    return found
