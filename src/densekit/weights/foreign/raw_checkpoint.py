"""What a foreign file holds, as the process that reads it hands it to the one that asked."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

from safetensors.torch import load, save
from torch import Tensor

from densekit import strict_json
from densekit.weights.foreign.keras_graph import Node

TENSORS, FACTS = "tensors.safetensors", "facts.json"


@dataclass(frozen=True)
class RawCheckpoint:
    """Tensors under their own names and in their own layout."""

    tensors: dict[str, Tensor]
    container: Literal["torch", "safetensors", "keras"]
    order: Literal["execution", "kinds", "none"]
    """How far the order of the names is that of the network: whole, among modules of one kind, or not at all."""
    left: tuple[str, ...] = ()
    """What stood beside the network: an optimizer, an epoch."""
    epsilons: tuple[float, ...] = ()
    """Of the batch norms, where the file says so."""
    image_size: tuple[int, int] | None = None
    """(height, width), where the file says so."""
    activation: str | None = None
    """What the network ends in, where the file says so: softmax, sigmoid, linear."""
    done: Mapping[str, str] = field(default_factory=dict)
    """What was done to a tensor since it was read."""
    graph: tuple[Node, ...] = ()
    """Of the layers, where the file says so."""

    def write(self, folder: Path) -> None:
        """Without pickles."""
        (folder / TENSORS).write_bytes(save(self.tensors))
        # safetensors sorts its names; order matters here.
        facts = {name: value for name, value in asdict(self).items() if name not in ("tensors", "done")}
        (folder / FACTS).write_text(strict_json.dumps(facts | {"names": list(self.tensors)}))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` wrote."""
        facts = json.loads((folder / FACTS).read_text())
        tensors = load((folder / TENSORS).read_bytes())
        size = facts["image_size"]
        return cls(
            tensors={name: tensors[name] for name in facts["names"]},
            container=facts["container"],
            order=facts["order"],
            left=tuple(facts["left"]),
            epsilons=tuple(facts["epsilons"]),
            image_size=(size[0], size[1]) if size else None,
            activation=facts["activation"],
            graph=tuple(Node(name, kind, settings, tuple(reads)) for name, kind, settings, reads in facts["graph"]),
        )
