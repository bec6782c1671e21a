"""What an analysis found -> figures as files, and one HTML file that needs nothing else."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from densekit import atomic
from densekit.analysis import figures as draw
from densekit.analysis.activation_maps import FOLLOWS
from densekit.analysis.error_metrics import guessing
from densekit.analysis.image_sample import Sample
from densekit.analysis.measurements import Analysis
from densekit.config import Preprocessing
from densekit.report.pictures import template, uri
from densekit.report.plots import png, svg
from densekit.version import __version__
from densekit.weights import ModelCard

_LISTED = 10  # connections at either end of the ranking


def write_analysis(folder: Path, found: Analysis, card: ModelCard, test: Sample | None) -> None:
    """Writes report.html and figures/*.svg, *.png to `folder`, which exists. Raises OSError.

    `test` are the images that `found` is about.
    """
    figures = dict(_figures(found, card, test))
    (folder / "figures").mkdir(exist_ok=True)
    pictures = {}
    for name, figure in figures.items():
        drawing, pixels = svg(figure), png(figure)
        atomic.write(folder / "figures" / f"{name}.svg", drawing)
        atomic.write(folder / "figures" / f"{name}.png", pixels)
        # Photographs inside a drawing make it larger than its pixels.
        pictures[name] = uri("png", pixels) if name == "activation_maps" else uri("svg+xml", drawing)
    page = template("analysis.html").render(
        found=found,
        network=card.model.name,
        figures=pictures,
        observed=list(_observed(found)),
        forms=list(found.observations),
        ranking=_ends(found),
        flows=found.gradients or [],
        agreements=[(block.block, block.agreement, block.untrained_agreement) for block in found.blocks],
        best_own=_best(found, "own"),
        follows=FOLLOWS,
        version=__version__,
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )
    atomic.write(folder / "report.html", page.encode("utf-8", "replace"))


def _figures(found: Analysis, card: ModelCard, test: Sample | None) -> Iterator[tuple[str, Figure]]:
    yield (
        "reuse",
        draw.reuse_maps(
            found.blocks,
            [("trained", lambda block: block.weight), ("untrained", lambda block: block.untrained_weight)],
            "mean |weight|, over the panel's largest",
        ),
    )
    forms: list[Any] = [("|weight| x |gamma|", lambda block: block.gamma)]
    if found.blocks[0].activation is not None:
        forms.append(("|weight| x activation", lambda block: block.activation))
    if found.blocks[0].ablation is not None:
        forms.append(("ablation", lambda block: block.ablation))
    yield "reuse_forms", draw.reuse_maps(found.blocks, forms, "over the panel's largest")
    yield "behind_blocks", draw.behind_blocks(found.blocks)
    yield "stochastic_depth", draw.stochastic_depth(found.blocks)
    if found.edges is not None:
        yield "removal", draw.removal(found.edges.curves, found.metric, guessing(found.metric, len(card.classes)))
    if found.gradients is not None:
        yield "gradients", draw.gradients(found.gradients)
    if found.probes is not None:
        yield "probes", draw.probes(found.probes, found.metric, found.accuracy)
    if found.maps is not None and found.maps.items and test is not None:
        images = [_pixels(test.images[item.sample], card.preprocessing) for item in found.maps.items]
        yield "activation_maps", draw.activation_maps(found.maps, images)


def _pixels(image: torch.Tensor, preprocessing: Preprocessing) -> Any:
    """(C, H, W), normalised -> (H, W, 3), or (H, W) where channels are not three colours; from 0 to 1."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    pixels = (image.cpu() * std + mean).clamp(0, 1).numpy()
    return pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]


def _observed(found: Analysis) -> Iterator[dict[str, Any]]:
    """A row an observation: the paper's form with its verdict, and the number in every form."""
    for i, seen in enumerate(found.observations["weight"]):
        yield {
            "seen": seen,
            "forms": [_cell(rows[i].mean, rows[i].deviation) for rows in found.observations.values()],
            "untrained": _cell(seen.untrained, None),
            "apart": _apart(seen.mean, seen.untrained),
        }


def _apart(value: float, untrained: float | None) -> bool:
    """Whether training has moved the number at all."""
    return untrained is None or not np.isfinite(untrained) or abs(value - untrained) > 0.05


def _cell(value: float | None, deviation: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "n/a"
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


def _ends(found: Analysis) -> list[tuple[str, list[dict[str, Any]]]]:
    """The connections that are missed most, and least."""
    if found.edges is None:
        return []
    rows = found.edges.ranking
    return [("Missed most", rows[::-1][:_LISTED]), ("Missed least", rows[:_LISTED])]


def _best(found: Analysis, what: str) -> tuple[str, float] | None:
    """The depth at which a probe does best."""
    curve = next((curve for curve in found.probes or [] if curve.what == what), None)
    if curve is None:
        return None
    if not np.isfinite(curve.accuracy).any():
        return None
    best = int(np.nanargmax(curve.accuracy))
    return curve.depths[best], curve.accuracy[best]
