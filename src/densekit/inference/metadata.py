"""What travels inside an exported file: classes, preprocessing, and the rest of the model's card. Needs no torch.

Every format keeps strings by name. `classes` and `preprocessing` are JSON for whoever reads the file without densekit;
`densekit` holds the rest of config.json, and what was made of the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from densekit import strict_json
from densekit.config import Preprocessing, describe
from densekit.errors import BadWeights
from densekit.outputs import check_outputs
from densekit.parsing import parse_json

Precision = Literal["float32", "int8"]
INPUTS = {False: "images", True: "pixels"}
"""Name of a graph's input, by whether its preprocessing is inside."""
OUTPUT = "logits"
_FORMAT = 1


@dataclass(frozen=True)
class Metadata:
    """Of one exported file."""

    card: dict[str, Any]
    """What the model's config.json holds."""
    inside: bool
    """Whether scaling to 0..1 and normalising are in the graph; then it takes (N, H, W, C) uint8."""
    precision: Precision = "float32"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return tuple(self.card["classes"])

    @property
    def preprocessing(self) -> Preprocessing:
        """All of it, wherever it is done."""
        return Preprocessing.model_validate(self.card["preprocessing"])

    @property
    def outside(self) -> Preprocessing:
        """What is left to do before the graph: with the rest inside, only decoding and cutting to size."""
        return self.preprocessing.unnormalised() if self.inside else self.preprocessing

    def strings(self) -> dict[str, str]:
        """For a file's own metadata."""
        rest = {key: value for key, value in self.card.items() if key not in ("classes", "preprocessing")}
        about = {"format": _FORMAT, "inside": self.inside, "precision": self.precision, "card": rest}
        return {
            "classes": strict_json.dumps(self.card["classes"]),
            "preprocessing": strict_json.dumps(self.card["preprocessing"]),
            "densekit": strict_json.dumps(about),
        }

    @classmethod
    def read(cls, strings: Mapping[str, str], source: object) -> "Metadata":
        """What `strings` gave. Raises BadWeights for a file that densekit did not write."""
        try:
            about = parse_json(strings["densekit"])
            card = {key: parse_json(strings[key]) for key in ("classes", "preprocessing")} | about["card"]
            found = cls(card, bool(about["inside"]), about["precision"])
            if about["format"] != _FORMAT or not all(isinstance(name, str) for name in found.classes):
                raise ValueError("of another format")
            found.preprocessing  # noqa: B018 - raises what it raises here, once
        except ValidationError as error:
            raise BadWeights(f"{source} has no valid preprocessing inside: {describe(error)}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise BadWeights(
                f"{source} does not tell its classes as densekit writes them; make it with densekit export"
            ) from error
        check_outputs(card.get("task"), found.classes, source)
        return found
