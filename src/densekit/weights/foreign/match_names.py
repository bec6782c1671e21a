"""Names in a file -> ours."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate

from densekit.errors import BadWeights
from densekit.weights.foreign.convert import oriented
from densekit.weights.foreign.layouts import LAYOUTS, Layout, translate
from densekit.weights.foreign.match_by_order import match_by_order
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint

_WRAPPERS = {"module", "_orig_mod"}  # DataParallel and DistributedDataParallel; torch.compile


@dataclass(frozen=True)
class Match:
    """Where each tensor of a file belongs."""

    layout: Layout
    names: dict[str, str]
    """Theirs to ours."""
    rest: tuple[str, ...]
    """Theirs that have no place."""
    by_order: bool = False
    """Names were unknown."""
    head_by_shape: bool = False
    """The classifier's name was unknown."""


def match(found: RawCheckpoint, file: str) -> Match:
    """By the names of the layout that knows most of them, else by order. Raises BadWeights where neither is certain."""
    plain = {name: _unwrapped(name, found) for name in found.tensors}
    best, names = LAYOUTS[0], dict[str, str]()
    for layout in LAYOUTS:
        if (layout.separator == "/") != (found.container == "keras"):
            continue
        for prefix in _prefixes(plain.values(), layout.separator):
            translated = _translated(layout, plain, prefix)
            if len(translated) > len(names):
                best, names = layout, translated
    if 2 * len(names) < len(found.tensors):
        layout, names = match_by_order(found, file)
        return Match(layout, names, tuple(name for name in found.tensors if name not in names), by_order=True)
    rest = [name for name in found.tensors if name not in names]
    head = _head(found, best, names, rest)
    return Match(best, names | head, tuple(name for name in rest if name not in head), head_by_shape=bool(head))


def own_names(found: RawCheckpoint, own: Collection[str], file: str) -> dict[str, str]:
    """Theirs to those of `own`, without wrappers. Raises BadWeights for two that are then the same."""
    plain = {name: _unwrapped(name, found) for name in found.tensors}
    ours = {_bare(name): name for name in own}  # a network may have a part called module itself
    prefix = max(
        _prefixes(plain.values(), "."),
        key=lambda prefix: sum(name.removeprefix(prefix) in ours for name in plain.values() if name.startswith(prefix)),
    )
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for theirs, name in plain.items():
        bare = name.removeprefix(prefix)
        names[theirs] = ours.get(bare, bare)
        if (other := taken.setdefault(names[theirs], theirs)) != theirs:
            raise BadWeights(
                f"{file}: {other} and {theirs} are both {names[theirs]}; it holds two networks, save one of them alone"
            )
    return names


def _unwrapped(name: str, found: RawCheckpoint) -> str:
    return name if found.container == "keras" else _bare(name)


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefixes(names: Collection[str], separator: str) -> list[str]:
    """None, and what most names begin with: model., net., a nested network's name."""
    counts = Counter(
        prefix
        for name in names
        for prefix in accumulate((f"{part}{separator}" for part in name.split(separator)[:-2]), str.__add__)
    )
    return ["", *(prefix for prefix, count in counts.items() if 2 * count > len(names))]


def _translated(layout: Layout, plain: dict[str, str], prefix: str) -> dict[str, str]:
    names: dict[str, str] = {}
    taken = set()
    for theirs, name in plain.items():
        ours = translate(layout, name.removeprefix(prefix)) if name.startswith(prefix) else None
        if ours is not None and ours not in taken:
            names[theirs] = ours
            taken.add(ours)
    return names


def _head(found: RawCheckpoint, layout: Layout, names: dict[str, str], rest: list[str]) -> dict[str, str]:
    """The classifier by another name: the one linear layer that is left, and reads what norm5 has."""
    norm5 = [theirs for theirs, ours in names.items() if ours == "features.norm5.running_mean"]
    if "classifier.weight" in names.values() or not norm5:
        return {}
    shapes = {name: oriented(found.tensors[name], name, layout)[0].shape for name in rest}
    linear = [name for name, shape in shapes.items() if len(shape) == 2]
    if len(linear) != 1 or shapes[linear[0]][1] != len(found.tensors[norm5[0]]):
        return {}
    (weight,) = linear
    parent = weight.rpartition(layout.separator)[0]
    bias = f"{parent}{layout.separator}bias"
    return {weight: "classifier.weight"} | ({bias: "classifier.bias"} if bias in shapes else {})
