"""The graph of layers in the config of a whole Keras network, with networks within it flattened.

Formats: Keras 2 lists (layer, call, output) for each input, Keras 3 nests tensors with such a triple in arguments.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from densekit.errors import BadWeights
from densekit.weights.foreign.keras_layers import NESTED, kind_of, plain

_KEPT = ("activation", "axis", "data_format", "kernel_size", "padding", "strides")


class Node(NamedTuple):
    """One layer as it is called."""

    name: str
    """With the networks it is in: "densenet121/conv1_conv"."""
    kind: str
    settings: Mapping[str, Any]
    """Those that decide what it computes."""
    reads: tuple[str, ...]
    """Names of the nodes whose output it takes, in order."""


def graph_of(config: Any, shown: str) -> tuple[Node, ...]:
    """The layers between the image and the output, each after those it reads; the last makes the output.

    Raises BadWeights for a network of several inputs or outputs, a layer that is called twice, or one that is called
    as in training.
    """
    nodes: dict[str, Node] = {}
    last = _flatten(config, "", None, nodes, shown)
    used, waiting = set[str](), [last]
    while waiting:
        if (name := waiting.pop()) not in used:
            used.add(name)
            waiting += nodes[name].reads
    return (*(node for node in nodes.values() if node.name in used and node.name != last), nodes[last])


def _flatten(network: Any, prefix: str, given: str | None, nodes: dict[str, Node], shown: str) -> str:
    """Adds a network's layers to `nodes`; `given` is the node that it reads. The name of the one it ends in."""
    outputs: dict[str, str] = {}
    sequential = network["class_name"] == "Sequential"
    layers = network["config"]["layers"]
    if sum(kind_of(layer) == "InputLayer" for layer in layers) > 1:
        raise BadWeights(f"{shown}: it has several inputs, and a DenseNet one; no densekit network has these weights")
    last = given
    for layer in layers:
        name, kind = layer["config"]["name"], kind_of(layer)
        if kind == "InputLayer":
            last = given or _add(nodes, Node(prefix + name, kind, {}, ()), shown)
        else:
            if sequential:
                reads = [last or _add(nodes, Node(f"{prefix}input", "InputLayer", {}, ()), shown)]
            else:
                reads = [_known(outputs, read, name, shown) for read in _read_by(layer, name, shown)]
            last = _called(layer, prefix, reads, nodes, shown)
        outputs[layer.get("name") or name] = last
    if last is None:
        raise BadWeights(f"{shown}: the network {network['config'].get('name')} has no layers; save it again")
    return last if sequential else _output(network, outputs, shown)


def _called(layer: Any, prefix: str, reads: list[str], nodes: dict[str, Node], shown: str) -> str:
    """Adds a layer, or those of a network that stands for one; the name of the node that makes its output."""
    settings, kind = layer["config"], kind_of(layer)
    name = settings["name"]
    if kind not in NESTED:
        kept = {key: plain(settings[key]) for key in _KEPT if key in settings}
        return _add(nodes, Node(prefix + name, kind, kept, tuple(reads)), shown)
    if len(reads) != 1:
        raise BadWeights(
            f"{shown}: the network {name} reads {len(reads)} layers, and a DenseNet one image; no densekit network has "
            "these weights"
        )
    return _flatten(layer, f"{prefix}{name}/", reads[0], nodes, shown)


def _add(nodes: dict[str, Node], node: Node, shown: str) -> str:
    if node.name in nodes:
        raise BadWeights(f"{shown}: two layers are called {node.name}; save the network again with a name for each")
    nodes[node.name] = node
    return node.name


def _known(outputs: Mapping[str, str], read: str, name: str, shown: str) -> str:
    if read not in outputs:
        raise BadWeights(f"{shown}: layer {name} reads {read}, which is not before it in the config; save it again")
    return outputs[read]


def _output(network: Any, outputs: Mapping[str, str], shown: str) -> str:
    ends = network["config"].get("output_layers") or []
    ends = [ends] if ends and isinstance(ends[0], str) else ends
    if len(ends) != 1:
        raise BadWeights(
            f"{shown}: the network {network['config'].get('name')} has {len(ends)} outputs, and a DenseNet one; save "
            "keras.Model(inputs, output) with the one that matters"
        )
    return _known(outputs, ends[0][0], "at the end", shown)


def _read_by(layer: Any, name: str, shown: str) -> list[str]:
    """The layers that one reads, in order."""
    calls = layer.get("inbound_nodes") or []
    if len(calls) == 1 or (calls and isinstance(calls[0], list) and isinstance(calls[0][0], str)):
        call = calls[0] if len(calls) == 1 else calls
        reads = list(_tensors(call))
        if any(arguments.get("training") is True for arguments in _arguments(call)):
            raise BadWeights(
                f"{shown}: layer {name} is called with training=True, so it computes another function than in "
                "evaluation; save the network without that"
            )
        if reads:
            return reads
    raise BadWeights(
        f"{shown}: layer {name} is called {len(calls)} times, and every layer of a DenseNet once; no densekit network "
        "has these weights"
    )


def _tensors(call: Any) -> Iterator[str]:
    """Names of layers, in the forms of Keras 2 and 3."""
    if isinstance(call, Mapping):
        for argument in (*call["args"], *call["kwargs"].values()):
            for tensor in argument if isinstance(argument, list) else [argument]:
                if isinstance(tensor, Mapping) and tensor.get("class_name") == "__keras_tensor__":
                    yield str(tensor["config"]["keras_history"][0])
    else:
        yield from (str(read[0]) for read in _listed(call))


def _arguments(call: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(call, Mapping):
        yield call["kwargs"]
    else:
        yield from (read[3] for read in _listed(call) if len(read) > 3)


def _listed(call: Any) -> list[Any]:
    """Keras 2 leaves out the outer list around a single input."""
    return [call] if isinstance(call[0], str) else call
