"""A foreign file -> a configuration and its state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from densekit.config import DenseNetConfig, ModelConfig
from densekit.errors import BadWeights, InvalidInput
from densekit.formatting import listed
from densekit.models import build, config_for
from densekit.weights.foreign.adjacent_config import ConfigBeside, read_beside, weights_in
from densekit.weights.foreign.convert import oriented, read_channels, reordered
from densekit.weights.foreign.fold_biases import shifts
from densekit.weights.foreign.infer_config import STRUCTURE, Shapes, infer_config
from densekit.weights.foreign.keras_wiring import wiring_of
from densekit.weights.foreign.layouts import TORCH, Layout
from densekit.weights.foreign.mapping_report import MappingReport, sound, within
from densekit.weights.foreign.match_names import Match, match, own_names
from densekit.weights.foreign.normalisation import XRAY, Statistics
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint
from densekit.weights.foreign.sandbox import digest, is_published, read
from densekit.weights.foreign.stored_forms import plain_weights
from densekit.weights.shapes import head_of, stem_of

_HEAD = "left out by --no-head"


@dataclass(frozen=True)
class Imported:
    """A network from a foreign file."""

    config: ModelConfig
    state: Mapping[str, Tensor]
    account: MappingReport
    match: Match
    left: tuple[str, ...]
    """What stood beside the network in the file."""
    sha256: str
    image_size: tuple[int, int] | None
    """(height, width), if the file says so."""
    epsilon_assumed: bool = False
    """Whether the batch norms' epsilon is what such files commonly have."""
    activation: str | None = None
    """What the network ends in, where the file says so."""
    beside: ConfigBeside | None = None
    """What config.json beside the weights says."""
    published: bool = False
    """Whether it is, byte by byte, a file that torchvision or Keras publishes."""
    wired: bool = False
    """Whether the file says how layers are wired, and it was compared."""
    folded: int = 0
    """Convolutions whose biases went into running means."""

    @property
    def is_xray(self) -> bool:
        """Whether the file has what torchxrayvision's own networks carry beside their weights."""
        return "op_threshs" in self.account.aside and self.config.in_channels == 1

    @property
    def candidates(self) -> tuple[Statistics, ...]:
        """How images are commonly normalised for weights with these names and such a network, the likeliest first."""
        config = self.config
        if not isinstance(config, DenseNetConfig):
            return ()
        if self.is_xray:
            return (XRAY,)
        wanted = (config.stem, config.in_channels)
        return tuple(each for each in self.match.layout.statistics if (each.stem, len(each.mean)) == wanted)


def import_network(
    path: Path, *, model: str | None = None, key: str | None = None, ignore: Sequence[str] = (), head: bool = True
) -> Imported:
    """The network in `path`, by the name `model` or, without one, by its shapes.

    `key` chooses one of several networks in a file, `ignore` names tensors (patterns with *) that are not taken, and
    without `head` there is no classifier. Raises BadWeights for anything else unmatched, missing or of another shape,
    UnknownName or InvalidInput for a wrong `model` or `key`.
    """
    config = config_for(model) if model is not None else None
    if not head and config is not None and not isinstance(config, DenseNetConfig):
        raise InvalidInput(
            f"--no-head is for DenseNets, and {config.name} is none; import it with its head, which `train --init` "
            "leaves out where the classes are others"
        )
    if path.is_dir():
        path = weights_in(path)
    beside = read_beside(path)
    found = plain_weights(read(path, key), str(path))
    if config is None or isinstance(config, DenseNetConfig):
        imported = _densenet(found, path, config, ignore, head=head)
    else:
        imported = _as_it_is(found, path, config, ignore)
    if beside is not None:
        imported = _as_beside(imported, beside, path)
    return replace(imported, published=is_published(path, imported.sha256))


def _densenet(
    found: RawCheckpoint, path: Path, named: DenseNetConfig | None, ignore: Sequence[str], *, head: bool
) -> Imported:
    file = str(path)
    matched = match(found, file)
    turned = {
        theirs: _linear(*oriented(found.tensors[theirs], theirs, matched.layout), ours)
        for theirs, ours in matched.names.items()
    }
    shapes = {ours: tuple(turned[theirs][0].shape) for theirs, ours in matched.names.items()}
    _require_ends(shapes, matched, file, head=head)
    config = infer_config(shapes, matched.layout, _epsilon(found, matched.layout, file), file)
    orders = read_channels(config) if matched.layout.new_first else {}
    if found.graph:
        relu, orders = wiring_of(found.graph, matched.names, config, file)
        config = config.model_copy(update={"transition_relu": relu})
    if named is not None:
        config = _as_named(config, named, file)
    if not head:
        config = config.model_copy(update={"num_classes": 0})
    with torch.device("meta"):
        own = build(config).state_dict()
    account, state = MappingReport(), dict[str, Tensor]()
    biases = _biases(matched, turned, own, account, file)
    folded = dict(shifts(config, biases))
    for theirs, ours in matched.names.items():
        module, _, parameter = ours.rpartition(".")
        if module in biases and parameter == "bias":
            continue
        if module == "classifier" and not head:
            account.aside[theirs] = _HEAD
            continue
        tensor, done = turned[theirs]
        _same_shape(own, ours, tensor, theirs, config.name, file)
        steps = [found.done.get(theirs, ""), done, sound(tensor, theirs, ours, file)]
        order = orders.get(module)
        if order is not None and tensor.dim() and ours != "classifier.bias":
            tensor = reordered(tensor, order)
            steps.append("channels reordered")
        if parameter == "running_mean" and bool(folded[module].any()):
            tensor = tensor.double() - folded[module]
            steps.append("less the biases of the convolutions it reads")
        state[ours] = tensor.to(own[ours].dtype).contiguous()
        account.take(theirs, steps)
    account.set_aside(matched.rest, ignore, file)
    account.make(own, state, file)
    assumed = matched.by_order and found.container == "keras" and not found.epsilons
    return Imported(
        config,
        state,
        account,
        matched,
        found.left,
        digest(path),
        found.image_size,
        epsilon_assumed=assumed,
        activation=found.activation,
        wired=bool(found.graph),
        folded=len(biases),
    )


def _require_ends(shapes: Shapes, matched: Match, file: str, *, head: bool) -> None:
    """Raises BadWeights for a network without the final batch norm, or without a classifier."""
    rest = f" ({listed(matched.rest)} are left over)" if matched.rest else ""
    if not any(ours.startswith("features.norm5.") for ours in shapes):
        raise BadWeights(f"{file}: it has no final batch norm{rest}; no densekit network has these weights")
    if head and "classifier.weight" not in shapes:
        inside = within(matched.rest, list(matched.names))
        spare = [name for name in matched.rest if name not in inside]
        raise BadWeights(
            f"{file} has no classifier of one linear layer{rest}; to start a training from the rest: --no-head"
            + (f" --ignore '{spare[0]}'" if spare else "")
        )


def _as_beside(imported: Imported, beside: ConfigBeside, path: Path) -> Imported:
    """With what config.json says. Raises BadWeights where that is of another network."""
    count = imported.config.num_classes
    for what, number in (("num_classes", beside.num_classes), ("names of classes", len(beside.classes) or None)):
        if count and number not in (None, count):
            raise BadWeights(
                f"{path} has {count} outputs, and config.json beside it {what}: {number}; they are not of one network, "
                "fetch both again"
            )
    return replace(imported, beside=beside, image_size=imported.image_size or beside.image_size)


def _linear(tensor: Tensor, done: str, ours: str) -> tuple[Tensor, str]:
    """A classifier that is a 1x1 convolution of the pooled maps, as a linear layer, and what was done."""
    if ours == "classifier.weight" and tensor.dim() == 4 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1), "1x1 convolution to linear"
    return tensor, done


def _biases(
    matched: Match,
    turned: Mapping[str, tuple[Tensor, str]],
    own: Mapping[str, Tensor],
    account: MappingReport,
    file: str,
) -> dict[str, Tensor]:
    """Those of convolutions, which ours have not, by convolution."""
    biases: dict[str, Tensor] = {}
    for theirs, ours in matched.names.items():
        conv, _, parameter = ours.rpartition(".")
        weight = own.get(f"{conv}.weight")
        if parameter == "bias" and weight is not None and weight.dim() == 4:
            tensor, _ = turned[theirs]
            if tensor.shape != weight.shape[:1]:
                raise BadWeights(
                    f"{file}: {theirs} is no bias of {len(weight)} maps; no densekit network has these weights"
                )
            step = sound(tensor, theirs, ours, file)
            biases[conv] = tensor
            account.take(theirs, [step, "folded into the running means of the batch norms that read it"])
    return biases


def _as_named(found: DenseNetConfig, named: DenseNetConfig, file: str) -> DenseNetConfig:
    """The named network with what only the file knows. Raises BadWeights if it is another one."""
    differing = [field for field in STRUCTURE if getattr(found, field) != getattr(named, field)]
    if differing:
        words = ", ".join(f"{field} {getattr(found, field)} and not {getattr(named, field)}" for field in differing)
        raise BadWeights(
            f"{file} holds a {found.name}, and no {named.name}: {words}; name the network it is, or leave out --model"
        )
    known = ("in_channels", "num_classes", "transition_relu", "norm_eps")
    return named.model_copy(update={field: getattr(found, field) for field in known})


def _epsilon(found: RawCheckpoint, layout: Layout, file: str) -> float:
    if len(found.epsilons) > 1:
        raise BadWeights(
            f"{file}: its batch norms have different epsilons, {found.epsilons}, and densekit's one; "
            "no densekit network has these weights"
        )
    return found.epsilons[0] if found.epsilons else layout.norm_eps


def _same_shape(own: Mapping[str, Tensor], ours: str, tensor: Tensor, theirs: str, name: str, file: str) -> None:
    if ours not in own:
        raise BadWeights(
            f"{file}: {theirs} has no place in a {name}, where densekit has no {ours}; no densekit network has these "
            "weights"
        )
    if own[ours].shape != tensor.shape:
        expected, given = ("x".join(map(str, t.shape)) or "one number" for t in (own[ours], tensor))
        raise BadWeights(
            f"{file}: {theirs} is {given}, where a {name} has {expected}; no densekit network has these weights"
        )


def _as_it_is(found: RawCheckpoint, path: Path, config: ModelConfig, ignore: Sequence[str]) -> Imported:
    """A network of another kind, which keeps its own names: a residual one, or one of torchvision or timm."""
    file = str(path)
    layout = Layout(f"{config.name}'s own", {}, parameters=TORCH)
    with torch.device("meta"):
        names = own_names(found, build(config).state_dict(), file)
    shapes = {ours: found.tensors[theirs].shape for theirs, ours in names.items()}
    for parts, field, dimension in ((head_of(config), "num_classes", 0), (stem_of(config), "in_channels", 1)):
        sizes = {shapes[name][dimension] for name in parts if len(shapes.get(name, ())) > 1}
        if len(sizes) == 1:
            config = config.model_copy(update={field: sizes.pop()})
    with torch.device("meta"):
        own = build(config).state_dict()
    account, state, rest = MappingReport(), dict[str, Tensor](), []
    for theirs, tensor in found.tensors.items():
        ours = names[theirs]
        if ours not in own:
            rest.append(theirs)
            continue
        _same_shape(own, ours, tensor, theirs, config.name, file)
        converted = sound(tensor, theirs, ours, file) if tensor.is_floating_point() else ""
        account.take(theirs, [found.done.get(theirs, ""), converted])
        state[ours] = tensor.to(own[ours].dtype)
    account.set_aside(rest, ignore, file)
    account.make(own, state, file)
    taken = {theirs: ours for theirs, ours in names.items() if theirs not in rest}
    return Imported(config, state, account, Match(layout, taken, tuple(rest)), found.left, digest(path), None)
