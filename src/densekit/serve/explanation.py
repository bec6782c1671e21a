"""Why one image got its answer, as JSON: what the network saw, where the evidence lies, which layers it came from.

No HTTP here. Numbers that are no numbers are null.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from densekit.analysis.decision import Decision, decide, has_maps, has_reuse
from densekit.attribution.grad_cam import SIDE
from densekit.data.resize_crop import region
from densekit.inference.classifier import Classifier, not_finite
from densekit.metrics.task import finite_rows
from densekit.report.pictures import from_pixels, picture_uri

_DIGITS = 6  # significant ones; a page draws no more, and 264 layers have many numbers
_SHOWN = 512  # pixels of the picture that comes back


def capabilities(classifier: Classifier) -> dict[str, bool]:
    """What of an answer can be explained; nothing without the network itself, as of exported files."""
    return {"class_map": has_maps(classifier.model), "reuse": has_reuse(classifier.model)}


def explain(
    classifier: Classifier,
    pixels: Tensor,
    size: tuple[int, int],
    *,
    top: int = 5,
    wanted: Sequence[int] = (),
) -> dict[str, Any]:
    """Why one image got its answer, as docs/page.md describes it.

    Args:
        classifier: the model.
        pixels: (1, C, H, W) uint8, the image at the network's size.
        size: (width, height) of the whole image in pixels, upright.
        top: how many of the most probable classes to explain where none are `wanted`.
        wanted: the classes to explain, by index.

    Returns:
        `seen`, `classes`, `sources` and `reuse`, ready for JSON.

    Raises:
        BadImage: an image whose logits are not finite.
    """
    preprocessing = classifier.card.preprocessing
    x = classifier.inputs(pixels)
    model = classifier.model
    decision: Decision | None = None
    if has_maps(model):
        decision = decide(model, x)  # type: ignore[arg-type]  # has_maps says which networks have them
        logits = torch.from_numpy(decision.logits)[None]
    else:
        with torch.inference_mode():
            logits = model(x).double().cpu()
    if not finite_rows(logits).all():
        raise not_finite("the image")
    probabilities = classifier.task.probabilities(logits)[0].numpy()
    indices = list(dict.fromkeys(wanted)) or np.argsort(-probabilities, kind="stable")[:top].tolist()
    return {
        "model": classifier.card.model.name,
        "seen": {
            "width": preprocessing.size[1],
            "height": preprocessing.size[0],
            "picture": picture_uri(from_pixels(pixels[0]), _SHOWN),
            "image": dict(zip(("width", "height"), size, strict=True)),
            "region": dict(zip(("left", "top", "width", "height"), region(size, preprocessing), strict=True)),
        },
        "classes": [
            {"class": classifier.classes[index], "index": index, "probability": _short(float(probabilities[index]))}
            | _evidence(decision, index)
            for index in indices
        ],
        "sources": _sources(decision),
        "reuse": _reuse(decision),
    }


def _evidence(decision: Decision | None, index: int) -> dict[str, Any]:
    """The class activation map, and what each source of the last block adds to the class's logit."""
    if decision is None:
        return {"logit": None, "bias": None, "map": None, "coarse": None, "parts": None}
    where = decision.map_of(index)
    return {
        "logit": _short(decision.logits[index]),
        "bias": _short(decision.bias[index].item()),
        "map": _rows(where),
        "coarse": min(where.shape) < SIDE,
        "parts": [_short(part) for part in decision.parts_of(index)] if decision.blocks else None,
    }


def _sources(decision: Decision | None) -> list[str] | None:
    """Whose parts `parts` are."""
    if decision is None or not decision.blocks:
        return None
    last = decision.blocks[-1]
    return [last.named(source) for source in range(len(last.sources))]


def _reuse(decision: Decision | None) -> list[dict[str, Any]] | None:
    if decision is None or not decision.blocks:
        return None
    return [
        {
            "block": block.number,
            "sources": [block.named(source) for source in range(len(block.sources))],
            "readers": [reader.name for reader in block.readers],
            "values": _rows(values),
        }
        for block, values in zip(decision.blocks, decision.reuse, strict=True)
    ]


def _rows(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[_short(value) for value in row] for row in values.tolist()]


def _short(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
