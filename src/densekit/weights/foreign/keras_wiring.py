"""Whether the graph of a Keras network is that of the DenseNet that its weights would fill.

The order of a concatenation becomes a permutation of channels, a missing ReLU in all transitions a setting; anything
else that differs is an error.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from densekit.config import DenseNetConfig
from densekit.errors import BadWeights
from densekit.weights.foreign.keras_graph import Node
from densekit.weights.foreign.keras_layers import IDENTITY, activation_of, plain

_ENDS = ("softmax", "sigmoid")
_WEIGHTED = ("Conv2D", "BatchNormalization", "Dense")


class Wiring(NamedTuple):
    """What a graph says that weights do not."""

    transition_relu: bool
    orders: Mapping[str, Tensor]
    """For each module that reads its channels in another order: at which of them the file has each of ours."""


def wiring_of(graph: Iterable[Node], names: Mapping[str, str], config: DenseNetConfig, file: str) -> Wiring:
    """Compares a graph with a DenseNet.

    Args:
        graph: As `keras_graph.graph_of` gives it.
        names: Of the file's tensors, to the network's.
        config: Deduced from the weights; its `transition_relu` is not looked at.
        file: For errors.

    Raises:
        BadWeights: It computes another function, with the layer and the difference.
    """
    return _Comparison(tuple(graph), names, config, file).run()


class _Comparison:
    def __init__(self, graph: tuple[Node, ...], names: Mapping[str, str], config: DenseNetConfig, file: str) -> None:
        self._nodes = {node.name: node for node in graph}
        self._last = graph[-1].name
        self._config, self._file = config, file
        self._places = self._placed(names)
        self._relus: dict[str, bool] = {}
        self._orders: dict[str, Tensor] = {}

    def run(self) -> Wiring:
        self._check_channels()
        config = self._config
        start, channels = self._stem(), config.stem_channels
        for block, layers in enumerate(config.blocks, start=1):
            sources = [start]
            for layer in range(1, layers + 1):
                sources.append(self._layer(f"features.denseblock{block}.denselayer{layer}", sources, channels))
            if block < len(config.blocks):
                start = self._transition(block, sources, channels)
                channels = int(config.compression * (channels + layers * config.growth_rate))
            else:
                self._end(sources, channels)
        if len(set(self._relus.values())) > 1:
            lacking = [name for name, relu in self._relus.items() if not relu]
            self._refuse(f"layer {lacking[0]} reads no ReLU, and the same layer of other transitions reads one")
        return Wiring(all(self._relus.values()), self._orders)

    def _layer(self, prefix: str, sources: list[str], channels: int) -> str:
        """A dense layer; the node that makes its maps."""
        self._reads_all(prefix, "norm1", "conv1", sources, channels)
        self._rectified(f"{prefix}.conv1", f"{prefix}.norm1")
        if not self._config.bottleneck:
            return self._at(f"{prefix}.conv1")
        self._expect(self._input(f"{prefix}.norm2"), f"{prefix}.conv1", f"{prefix}.norm2")
        self._rectified(f"{prefix}.conv2", f"{prefix}.norm2")
        return self._at(f"{prefix}.conv2")

    def _transition(self, block: int, sources: list[str], channels: int) -> str:
        """The node that the next block begins with."""
        prefix, reader = f"features.transition{block}", f"features.denseblock{block + 1}.denselayer1.norm1"
        self._reads_all(prefix, "norm", "conv", sources, channels)
        conv = self._at(f"{prefix}.conv")
        before = self._unpadded(f"{prefix}.conv")
        start = self._input(reader)
        pooled = [name for name in (before, start) if self._nodes[name].kind == "AveragePooling2D"]
        if len(pooled) != 1:
            self._refuse(
                f"{len(pooled)} average poolings stand directly before and behind layer {conv}, where densekit's "
                "DenseNet has one in a transition"
            )
        before = self._source(before) if pooled[0] != before else self._read(before)
        self._relus[conv] = self._is_relu(before)
        self._expect(self._read(before) if self._relus[conv] else before, f"{prefix}.norm", f"{prefix}.conv")
        self._expect(self._read(start) if pooled[0] == start else start, f"{prefix}.conv", reader)
        return start

    def _stem(self) -> str:
        """The node that the first block begins with."""
        reader = "features.denseblock1.denselayer1.norm1"
        start = before = self._input(reader)
        if self._config.stem == "imagenet":
            if self._nodes[start].kind != "MaxPooling2D":
                self._differs(self._at(reader), start, "a max pooling after the stem")
            before = self._through_padding(start, 1)
        if self._config.stem == "imagenet" or self._config.stem_norm:
            if not self._is_relu(before):
                self._differs(self._at(reader), before, "a ReLU in the stem")
            self._expect(self._read(before), "features.norm0", reader)
            before = self._input("features.norm0")
        self._expect(before, "features.conv0", reader)
        image = self._unpadded("features.conv0")
        if self._nodes[image].kind != "InputLayer":
            self._differs(self._at("features.conv0"), image, "the image")
        return start

    def _end(self, sources: list[str], channels: int) -> None:
        self._reads_all("features", "norm5", None, sources, channels)
        norm, head = self._at("features.norm5"), self._places.get("classifier")
        if head is None:
            for node in self._nodes.values():
                reader = norm in map(self._source, node.reads) and not self._is_nothing(node)
                if reader and not self._is_relu(node.name):
                    self._differs(node.name, norm, "a ReLU")
            return
        pooled = self._input("classifier")
        while self._nodes[pooled].kind == "Flatten":
            pooled = self._read(pooled)
        if self._nodes[pooled].kind != "GlobalAveragePooling2D":
            self._differs(head, pooled, "a global average pooling")
        rectified = self._read(pooled)
        if not self._is_relu(rectified):
            self._differs(pooled, rectified, "a ReLU")
        self._expect(self._read(rectified), "features.norm5", "classifier")
        if (order := self._orders.get("features.norm5")) is not None:
            self._orders["classifier"] = order
        end, ends = self._source(self._last), 0
        while self._activation(end) in _ENDS and end != head:
            end, ends = self._read(end), ends + 1
        self._expect(end, "classifier", None)
        if ends + (self._activation(head) in _ENDS) > 1:
            self._refuse(f"layer {self._last} is the second softmax or sigmoid, where densekit has one")

    def _reads_all(self, prefix: str, norm: str, conv: str | None, sources: list[str], channels: int) -> None:
        """Checks that a norm reads every source once, and keeps their order if it is not ours."""
        name = f"{prefix}.{norm}"
        found, waiting = list[int](), [self._input(name)]
        places = {source: place for place, source in enumerate(sources)}
        while waiting:
            node = self._nodes[waiting.pop()]
            if node.name in places:
                found.append(places[node.name])
            elif node.kind == "Concatenate" and len(found) + len(waiting) <= len(sources):
                waiting += reversed([self._source(read) for read in node.reads])
            else:
                self._differs(self._at(name), node.name, "the block's input and the new maps of each layer before")
        if sorted(found) != list(range(len(sources))):
            self._refuse(
                f"layer {self._at(name)} reads {len(found)} inputs, where densekit's DenseNet reads each of "
                f"{len(sources)} once: {', '.join(sources[:3])}{' and more' if len(sources) > 3 else ''}"
            )
        if found == sorted(found):
            return
        widths = [channels if place == 0 else self._config.growth_rate for place in found]
        starts = torch.tensor([0, *widths]).cumsum(0).tolist()
        ranges = {p: torch.arange(at, at + width) for p, at, width in zip(found, starts, widths, strict=False)}
        order = torch.cat([ranges[place] for place in range(len(sources))])
        self._orders |= {f"{prefix}.{part}": order for part in (norm, conv) if part}

    def _rectified(self, conv: str, norm: str) -> None:
        """Checks that a convolution reads the ReLU of a norm."""
        read = self._unpadded(conv)
        if not self._is_relu(read):
            self._differs(self._at(conv), read, "a ReLU")
        self._expect(self._read(read), norm, conv)

    def _unpadded(self, module: str) -> str:
        """What a convolution reads, before a padding of its own; checks that it is half the kernel."""
        node = self._nodes[self._at(module)]
        side = node.settings.get("kernel_size", 1)
        if not isinstance(side, int):
            self._refuse(f"layer {node.name} has kernel_size {side}, where densekit's DenseNet has squares")
        if side == 1 or node.settings.get("padding") == "same":
            return self._input(module)
        return self._through_padding(node.name, side // 2)

    def _through_padding(self, name: str, width: int) -> str:
        """What is before the zeros that a convolution or pooling needs around its maps."""
        before = self._read(name)
        node = self._nodes[before]
        given = node.settings.get("padding") if node.kind == "ZeroPadding2D" else 0
        if plain(given) != width:
            self._refuse(
                f"layer {name} reads {given} pixels of zeros at each side, where densekit's DenseNet has {width}"
            )
        return self._read(before)

    def _at(self, module: str) -> str:
        """The node that holds a module's tensors."""
        if module not in self._places:
            raise BadWeights(f"{self._file}: it has no weights for {module}; no densekit network has these weights")
        return self._places[module]

    def _input(self, module: str) -> str:
        return self._read(self._at(module))

    def _read(self, name: str) -> str:
        """The one node that another reads, through those that change nothing."""
        node = self._nodes[name]
        if len(node.reads) != 1:
            self._refuse(
                f"layer {name}, a {node.kind}, reads {len(node.reads)} layers, where densekit's DenseNet has one"
            )
        return self._source(node.reads[0])

    def _source(self, name: str) -> str:
        while self._is_nothing(self._nodes[name]):
            name = self._nodes[name].reads[0]
        return name

    def _is_nothing(self, node: Node) -> bool:
        return node.kind in IDENTITY or (node.kind == "Activation" and self._activation(node.name) == "linear")

    def _is_relu(self, name: str) -> bool:
        return self._nodes[name].kind in ("Activation", "ReLU") and self._activation(name) == "relu"

    def _activation(self, name: str) -> object:
        return activation_of(self._nodes[name].kind, self._nodes[name].settings)

    def _expect(self, name: str, module: str, reader: str | None) -> None:
        if name != self._at(module):
            by = self._at(reader) if reader else None
            self._differs(by, name, f"layer {self._at(module)}")

    def _differs(self, reader: str | None, read: str, wanted: str) -> NoReturn:
        node = self._nodes[read]
        kind = f"{node.kind} ({self._activation(read)})" if node.kind == "Activation" else node.kind
        if reader == read:
            self._refuse(f"layer {read} is a {kind}, where densekit's DenseNet has {wanted}")
        who = f"layer {reader} reads" if reader else "the output is made by"
        self._refuse(f"{who} layer {read}, a {kind}, where densekit's DenseNet has {wanted}")

    def _refuse(self, difference: str) -> NoReturn:
        raise BadWeights(f"{self._file}: {difference}; no densekit network has these weights")

    def _check_channels(self) -> None:
        """Refuses norms and concatenations along another axis than channels."""
        formats = {str(node.settings["data_format"]) for node in self._nodes.values() if "data_format" in node.settings}
        if len(formats) > 1:
            self._refuse(f"its layers have different data formats, {' and '.join(map(str, sorted(formats)))}")
        channels = (1,) if formats == {"channels_first"} else (3, -1)
        for node in self._nodes.values():
            axis = node.settings.get("axis", channels[-1])
            if node.kind in ("BatchNormalization", "Concatenate") and axis not in channels:
                self._refuse(
                    f"layer {node.name}, a {node.kind}, has axis {axis}, where channels are axis {channels[-1]}"
                )

    def _placed(self, names: Mapping[str, str]) -> dict[str, str]:
        """Our modules -> the nodes that hold their tensors."""
        ends: dict[str, list[str]] = {}
        for node in self._nodes.values():
            if node.kind in _WEIGHTED:
                for end in _ends(node.name):
                    ends.setdefault(end, []).append(node.name)
        places: dict[str, str] = {}
        for theirs, ours in names.items():
            layer = theirs.rpartition("/")[0]
            exact = [layer] if layer in self._nodes else ends.get(layer, [])
            # Some versions put a scope before the layer's name.
            found = exact or [end for end in _ends(layer) if end in self._nodes]
            if len(found) != 1:
                self._refuse(f"{theirs} is of no layer between the image and the output")
            if places.setdefault(ours.rpartition(".")[0], found[0]) != found[0]:
                self._refuse(
                    f"{theirs} is not of layer {places[ours.rpartition('.')[0]]}, whose other weights it goes with"
                )
        return places


def _ends(name: str) -> list[str]:
    """A path and what is left of it without its first parts."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]
