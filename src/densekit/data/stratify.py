"""Stratified splits: each class is divided by the same shares, and new images move few of the others.

A unit is what no split divides: a group, or images of the same content. A unit's labels, rarest first, are a path in a
tree. In each node of the tree the units have a place between 0 and 1: units of one path by their hashes, the subtrees
of a node mixed in proportion to their sizes. The shares cut each branch of the root, the units with the same rarest
label, at the same places: the first to the test, the next to the validation, the rest to the training split.

Shapes: N images, U units, C classes, D labels of the unit that has most, P pairs of a unit and a label of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TRAIN, VAL, TEST = 0, 1, 2

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """The units of some images, with what decides where they go."""

    keys: NDArray[np.uint64]
    """(U,): a hash of the content or of the group."""
    sizes: Ints
    """(U,): images of each."""
    unit: Ints
    """(P,): sorted."""
    label: Ints
    """(P,): of one unit rarest first; the last one of each unit is C, which all units have."""
    rarest: Ints
    """The C + 1 labels, rarest first."""

    @cached_property
    def branches(self) -> Ints:
        """(U,): units with the same rarest label have the same number."""
        return self._nodes[0]

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """(U,): between 0 and 1, evenly spread over the units of a branch."""
        places = np.zeros(len(self.keys))
        for nodes in reversed(self._nodes):
            places = self._spread(nodes, places)
        return places

    @property
    def order(self) -> Ints:
        """(U,): all units by place, so that the first ones have every branch in proportion."""
        return np.lexsort((self.keys, self.places))

    def having(self, label: int) -> Ints:
        """The units with a label, by place."""
        first, last = np.searchsorted(self._by_label[0], (label, label + 1))
        units = self._by_label[1][first:last]
        return units[np.lexsort((self.keys[units], self.places[units]))]

    @cached_property
    def starts(self) -> Ints:
        """(U + 1,): where each unit's labels begin in `label`."""
        return np.searchsorted(self.unit, np.arange(len(self.keys) + 1))

    @cached_property
    def _by_label(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.label, kind="stable")
        return self.label[order], self.unit[order]

    @cached_property
    def _nodes(self) -> list[Ints]:
        """(U,) for each depth of the tree: the node that a unit is in."""
        nodes, found = np.zeros(len(self.keys), np.int64), list[Ints]()
        depth = np.arange(len(self.unit)) - self.starts[self.unit]
        for d in range(int(depth.max()) + 1):
            label = np.full(len(self.keys), len(self.rarest))  # for a path that has ended
            label[self.unit[depth == d]] = self.label[depth == d]
            count, nodes = _renumbered(nodes * (len(self.rarest) + 1) + label)
            found.append(nodes)
            if count == len(nodes):
                break
        return found

    def _spread(self, nodes: Ints, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """(U,): the middle of each unit among the images of its node, which come in the order of `places`."""
        order = np.lexsort((self.keys, places, nodes))
        sizes = self.sizes[order].astype(np.float64)
        totals = np.bincount(nodes, weights=self.sizes)
        before = np.cumsum(totals) - totals
        spread = np.empty(len(nodes))
        spread[order] = (np.cumsum(sizes) - sizes / 2 - before[nodes[order]]) / totals[nodes[order]]
        return spread


def units_of(keys: NDArray[np.uint64], labels: Tensor, classes: int) -> tuple[Units, Ints]:
    """The units of images with these `keys` (N,) and `labels`, (N,) or (N, C), and the unit of each image (N,)."""
    unique, member, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    member = member.reshape(-1).astype(np.int64)
    if labels.ndim == 1:
        unit, label = member, labels.numpy()
        counts = np.bincount(label, minlength=classes)
    else:
        image, label = np.nonzero(labels.numpy() == 1)
        unit, counts = member[image], np.bincount(label, minlength=classes)
    # The label that all have is the last, however rare.
    rarest = np.append(np.argsort(counts, kind="stable"), classes)
    rank = np.empty(classes + 1, np.int64)
    rank[rarest] = np.arange(classes + 1)
    pairs = np.concatenate((unit * (classes + 1) + rank[label], np.arange(len(unique)) * (classes + 1) + classes))
    pairs.sort()
    unit, place = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], classes + 1)
    return Units(unique, sizes.astype(np.int64), unit, rarest[place], rarest), member


def assign(units: Units, test: float, val: float | int) -> Ints:
    """(U,): TRAIN, VAL or TEST. `val` is a share of what is not for the test, or a number of images.

    Every label is in the training split if a unit has it, then in the test and validation splits if units are left.
    """
    bound = test + (1 - test) * val if isinstance(val, float) else test
    split = np.where(units.places < test, TEST, np.where(units.places < bound, VAL, TRAIN))
    filled = _Filled(units, split)
    filled.fill(TRAIN, {VAL: 1, TEST: 1})
    if test:
        filled.fill(TEST, {TRAIN: 2, VAL: 1})
    if isinstance(val, float):
        if val:
            filled.fill(VAL, {TRAIN: 2, TEST: 2})
    else:
        filled.count_out(val)
    return filled.split


class _Filled:
    """Units in splits, with how many units of each label a split has."""

    def __init__(self, units: Units, split: Ints) -> None:
        self.units, self.split = units, split.astype(np.int64)
        every = len(units.rarest)
        codes = self.split[units.unit] * every + units.label
        self.counts = np.bincount(codes, minlength=3 * every).reshape(3, every)

    def fill(self, target: int, donors: Mapping[int, int]) -> None:
        """Gives `target` a unit of every label that it lacks, from the first donor that has one to spare.

        `donors` says how many units of each of its labels a split has at least, before one is taken.
        """
        for label in self.units.rarest:
            if not self.counts[target, label]:
                unit = next(self._spare(int(label), donors), None)
                if unit is not None:
                    self._move(unit, target)

    def count_out(self, count: int) -> None:
        """Moves units from training to validation, with `count` images or some more, but of each label not the last."""
        training = self.split == TRAIN
        for label in self.units.rarest:
            of_label = self.units.having(int(label))
            kept = of_label[self.split[of_label] == TRAIN]
            training[kept[-1:]] = False
        order = self.units.order
        order = order[training[order]]
        sizes = self.units.sizes[order]
        self.split[order[np.cumsum(sizes) - sizes < count]] = VAL

    def _spare(self, label: int, donors: Mapping[int, int]) -> Iterator[int]:
        """Units that may be moved: of the training split the first, of others the last."""
        of_label = self.units.having(label)
        for donor, least in donors.items():
            there = of_label[self.split[of_label] == donor]
            for unit in there if donor == TRAIN else there[::-1]:
                first, last = self.units.starts[unit : unit + 2]
                if self.counts[donor, self.units.label[first:last]].min() >= least:
                    yield int(unit)

    def _move(self, unit: int, target: int) -> None:
        first, last = self.units.starts[unit : unit + 2]
        labels = self.units.label[first:last]
        self.counts[self.split[unit], labels] -= 1
        self.counts[target, labels] += 1
        self.split[unit] = target


def _renumbered(values: Ints) -> tuple[int, Ints]:
    """How many different values there are, and (U,) numbers for them from 0."""
    unique, inverse = np.unique(values, return_inverse=True)
    return len(unique), inverse.reshape(-1).astype(np.int64)
