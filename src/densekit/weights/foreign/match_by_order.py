"""Names nobody knows -> ours, by the order in which modules stand in the file and by their shapes.

What shapes do not show stays unseen: the order in which maps are concatenated, and what has no weights.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from densekit.errors import BadWeights
from densekit.weights.foreign.convert import oriented
from densekit.weights.foreign.layouts import KERAS, TORCH, Layout
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint


class Module(NamedTuple):
    """One module of theirs."""

    kind: str
    names: Mapping[str, str]
    """Our parameters' names to theirs in the file."""
    shape: tuple[int, ...]
    """Of the weight, or of the running mean."""
    place: int
    """In the file."""


class Role(NamedTuple):
    """One module of ours."""

    name: str
    kind: str
    unit: int
    """Stem, layer, transition or head: the modules of one stand together."""


def match_by_order(found: RawCheckpoint, file: str) -> tuple[Layout, dict[str, str]]:
    """Theirs to ours. Raises BadWeights where that is not certain."""
    known = KERAS if found.container == "keras" else TORCH
    layout = Layout("order and shapes", {}, parameters=known)
    if known is KERAS:  # of its own DenseNets; a file of weights alone does not say
        layout = layout._replace(separator="/", norm_eps=1.001e-5)
    first = next(iter(found.tensors))
    if found.order == "none":
        raise BadWeights(
            f"{file}: its names, such as {first}, are none that densekit knows, and safetensors keep no order to match "
            "by; save it with torch.save(model.state_dict(), 'weights.pth')"
        )
    modules = _modules(found, layout, file)
    by_kind = {kind: [module for module in modules if module.kind == kind] for kind in ("conv", "norm", "linear")}
    roles = _roles([module.shape for module in by_kind["conv"]], len(by_kind["norm"]))
    pairs: list[tuple[Role, Module]] = []
    for kind, theirs in by_kind.items():
        ours = [role for role in roles if role.kind == kind]
        if len(ours) != len(theirs):
            raise _unlike(file, first)
        pairs += zip(ours, theirs, strict=True)
    if not _fits(pairs) or (found.order == "execution" and not _together(pairs)):
        raise _unlike(file, first)
    return layout, {
        theirs: f"{role.name}.{parameter}" for role, module in pairs for parameter, theirs in module.names.items()
    }


def _unlike(file: str, first: str) -> BadWeights:
    return BadWeights(
        f"{file}: its names, such as {first}, are none that densekit knows, and order and shapes are not those of one "
        "DenseNet alone; rename the tensors as torchvision has them, or name another kind of network with --model"
    )


def _modules(found: RawCheckpoint, layout: Layout, file: str) -> list[Module]:
    grouped: dict[str, dict[str, str]] = {}
    for name in found.tensors:
        parent, _, parameter = name.rpartition(layout.separator)
        ours = layout.parameters.get(parameter)
        if ours is None or not parent:
            raise _unlike(file, name)
        grouped.setdefault(parent, {})[ours] = name
    modules = []
    for place, names in enumerate(grouped.values()):
        theirs = names.get("running_mean") or names.get("weight")
        if theirs is None:
            raise _unlike(file, next(iter(names.values())))
        shape = tuple(oriented(found.tensors[theirs], theirs, layout)[0].shape)
        kind = "norm" if "running_mean" in names else {4: "conv", 2: "linear"}.get(len(shape), "other")
        modules.append(Module(kind, names, shape, place))
    return modules


def _roles(convolutions: list[tuple[int, ...]], norms: int) -> list[Role]:
    """Our modules in order, as far as the kernels of all convolutions tell: a bottleneck is a 1x1 before a 3x3."""
    # Every convolution but the stem's follows a norm, and so does the classifier: one more is the stem's.
    return list(_walk([shape[2] for shape in convolutions], stem_norm=norms > len(convolutions)))


def _walk(kernels: list[int], *, stem_norm: bool) -> Iterator[Role]:
    if len(kernels) < 2:
        return
    yield Role("features.conv0", "conv", 0)
    if stem_norm:
        yield Role("features.norm0", "norm", 0)
    bottleneck = kernels[1] == 1
    block, layer, unit, i = 1, 1, 1, 1
    while i < len(kernels):
        prefix = f"features.denseblock{block}.denselayer{layer}"
        if bottleneck and kernels[i : i + 2] == [1, 3]:
            for part, kind in (("norm1", "norm"), ("conv1", "conv"), ("norm2", "norm"), ("conv2", "conv")):
                yield Role(f"{prefix}.{part}", kind, unit)
            layer, i = layer + 1, i + 2
        elif not bottleneck and kernels[i] == 3:
            yield Role(f"{prefix}.norm1", "norm", unit)
            yield Role(f"{prefix}.conv1", "conv", unit)
            layer, i = layer + 1, i + 1
        else:
            yield Role(f"features.transition{block}.norm", "norm", unit)
            yield Role(f"features.transition{block}.conv", "conv", unit)
            block, layer, i = block + 1, 1, i + 1
        unit += 1
    yield Role("features.norm5", "norm", unit)
    yield Role("classifier", "linear", unit)


def _fits(pairs: list[tuple[Role, Module]]) -> bool:
    """Whether each norm has the channels of the convolution or classifier that reads it."""
    shapes = {role.name: module.shape for role, module in pairs}
    for name, shape in shapes.items():
        if name.endswith(("norm1", "norm2", "norm")):
            reads = shapes[name.replace("norm", "conv")][1]
        elif name == "features.norm0":
            reads = shapes["features.conv0"][0]
        elif name == "features.norm5":
            reads = shapes["classifier"][1]
        else:
            continue
        if shape[0] != reads:
            return False
    return True


def _together(pairs: list[tuple[Role, Module]]) -> bool:
    """Whether the file's order never goes back to an earlier unit."""
    units = [role.unit for role, _ in sorted(pairs, key=lambda pair: pair[1].place)]
    return units == sorted(units)
