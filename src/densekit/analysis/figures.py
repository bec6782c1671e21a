"""The figures of an analysis: reuse maps as in the paper's figure 5, and what goes beyond it.

Maps are drawn in viridis and cividis, lines in the colours of Okabe and Ito: told apart with any colour vision.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from densekit.analysis.ablation import Removal
from densekit.analysis.activation_maps import ActivationMaps
from densekit.analysis.error_metrics import Metric
from densekit.analysis.gradients import Flow
from densekit.analysis.measurements import BlockReuse
from densekit.analysis.probes import Probes
from densekit.analysis.reuse import Map
from densekit.report.plots import FAINT, INK, TRAIN, VAL, plain

GREEN, PURPLE = "#009E73", "#CC79A7"
_ROWS = Sequence[tuple[str, Callable[[BlockReuse], Map | None]]]


def reuse_maps(blocks: Sequence[BlockReuse], rows: _ROWS, legend: str) -> Figure:
    """A row a form, a column a block: sources down, readers across, each panel on a scale of its own from 0 to 1.

    The last column of a panel, the transition or classifier, is framed as in the paper and has a scale of its own,
    as its weights are of another kind of layer; that scale is from 0 to 1 too.
    """
    count = len(blocks)
    figure = Figure(figsize=(1.1 + 3.1 * count, 0.5 + 3.2 * len(rows)), layout=layout())
    grid = figure.subplots(len(rows), count, squeeze=False)
    image = None
    for line, (title, of) in zip(grid, rows, strict=True):
        for axes, block in zip(line, blocks, strict=True):
            values = of(block)
            if values is None:
                axes.set_axis_off()
                continue
            image = _panel(axes, scaled(values), block)
            axes.set_title(f"Block {block.block}: {title}", loc="left", size=10, color=INK, weight="bold")
    for axes in grid[:, 0]:
        axes.set_ylabel("source layer s (0: block's input)")
    for axes in grid[-1]:
        axes.set_xlabel("reader l (last: what follows the block)")
    if image is not None:
        bar = figure.colorbar(image, ax=grid, shrink=0.8, aspect=30, pad=0.01)
        bar.set_label(legend, color=INK)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=INK, labelsize=9)
    return figure


def scaled(values: Map) -> Map:
    """Over the largest of the layers' entries, and of the last column over its own largest; negative ones are 0."""
    found = np.where(np.isnan(values), np.nan, np.maximum(values, 0))
    for part in (np.s_[:, :-1], np.s_[:, -1:]):
        highest = np.nanmax(found[part])
        if highest > 0:
            found[part] = found[part] / highest
    return found


def _panel(axes: Axes, values: Map, block: BlockReuse) -> Any:
    plain(axes)
    layers = values.shape[1] - 1
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axes.add_patch(Rectangle((layers - 0.5, -0.5), 1, layers + 1, fill=False, ec="black", lw=1.6, clip_on=False))
    axes.set_facecolor("white")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    every = max(1, -(-layers // 8))
    ticks = [r for r in range(layers) if r % every == 0 and (layers - r) * 24 / (layers + 1) >= 2.4]
    last = "C" if block.readers[-1] == "classifier" else f"T{block.block}"
    axes.set_xticks([*ticks, layers], [*(str(r + 1) for r in ticks), last])
    axes.set_yticks(range(0, layers + 1, every))
    return image


def behind_blocks(blocks: Sequence[BlockReuse]) -> Figure:
    """What each transition and the classifier read, source by source, beside the untrained network."""
    figure = Figure(figsize=(1.0 + 3.0 * len(blocks), 3.3), layout=layout())
    for i, (axes, block) in enumerate(zip(_row(figure, len(blocks)), blocks, strict=True)):
        plain(axes)
        axes.grid(axis="y", color=FAINT, lw=0.8)
        sources = np.arange(len(block.sources))
        axes.bar(sources, block.weight[:, -1] / block.weight[:, -1].mean(), color=TRAIN, label="trained")
        first = block.untrained_weight[:, -1]
        axes.plot(sources, first / first.mean(), color=VAL, lw=2, label="untrained")
        axes.set_title(f"{block.readers[-1].capitalize()} after block {block.block}", loc="left", size=10, color=INK)
        axes.set_xlabel("source layer s (0: block's input)")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_ylim(bottom=0)
        if not i:
            axes.set_ylabel("mean |weight| / average")
    legend(figure, figure.axes[0])
    return figure


def stochastic_depth(blocks: Sequence[BlockReuse]) -> Figure:
    """Learned reuse above, the probability that stochastic depth connects two layers below."""
    return reuse_maps(
        blocks,
        [("learned |weight|", lambda block: block.weight), ("stochastic depth", lambda block: block.stochastic_depth)],
        "mean |weight| over the largest; probability of a direct connection",
    )


def removal(curves: Sequence[Removal], metric: Metric, guess: float) -> Figure:
    """Error against connections cut; the random orders as a band. `guess` is the error without looking."""
    figure = Figure(figsize=(6.4, 4.0), layout=layout())
    axes = figure.add_subplot()
    plain(axes)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    random = [curve for curve in curves if curve.order.startswith("random")]
    if random:
        errors = np.array([curve.error for curve in random])
        axes.fill_between(random[0].removed, errors.min(0), errors.max(0), color="#9aa7b4", alpha=0.35, lw=0)
        axes.plot(random[0].removed, errors.mean(0), color="#66727e", lw=2, ls=":", label="at random (3 orders)")
    ordered = [curve for curve in curves if not curve.order.startswith("random")]
    for curve, colour, style in zip(ordered, (TRAIN, VAL), ("-", "--"), strict=False):
        axes.plot(curve.removed, curve.error, color=colour, ls=style, lw=2, marker="o", ms=4, label=curve.order)
    axes.axhline(guess, color=INK, lw=1, ls="-.", label="guessing")
    axes.set_xlim(0, curves[0].removed[-1])
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("connections (source, reader) removed")
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("error on unseen images")
    else:
        axes.set_ylabel("1 - mean AUROC on unseen images")
    legend(figure, axes)
    return figure


def gradients(flows: Sequence[Flow]) -> Figure:
    """Gradient by layer, untrained and trained, one line a network."""
    states = list(dict.fromkeys(flow.state for flow in flows))
    networks = list(dict.fromkeys(flow.network for flow in flows))
    figure = Figure(figsize=(1.0 + 4.2 * len(states), 3.8), layout=layout())
    for i, (axes, state) in enumerate(zip(_row(figure, len(states), share=True), states, strict=True)):
        plain(axes)
        axes.grid(axis="y", color=FAINT, lw=0.8)
        for flow in flows:
            if flow.state == state:
                j = networks.index(flow.network)
                x = np.arange(len(flow.rms)) / max(1, len(flow.rms) - 1)
                axes.plot(
                    x,
                    flow.rms,
                    color=(TRAIN, VAL)[j % 2],
                    ls="-" if not j else "--",
                    lw=1.6,
                    marker="os"[j % 2],
                    ms=3.5,
                    label=flow.network,
                )
        axes.set_yscale("log")
        axes.set_title(state.capitalize(), loc="left", size=11, color=INK, weight="bold")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("depth, from the image to the classifier")
        if not i:
            axes.set_ylabel("gradient by a weight, root mean square")
    legend(figure, figure.axes[0])
    return figure


def probes(curves: Sequence[Probes], metric: Metric, own: float | None) -> Figure:
    """How good linear probes are by depth, with the network's own answers."""
    figure = Figure(figsize=(6.8, 4.3), layout=layout())
    axes = figure.add_subplot()
    plain(axes)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    for curve in curves:
        label, colour, style, marker = _style(curve, curves[0].network)
        axes.plot(curve.position, curve.accuracy, color=colour, ls=style, lw=1.8, marker=marker, ms=4, label=label)
    if own is not None:
        axes.axhline(own, color=INK, lw=1, ls="-.", label="the network's own answer")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("depth")
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("accuracy of a linear probe")
    else:
        axes.axhline(0.5, color=INK, lw=1, ls=":", label="guessing")
        # Half of the scale is below guessing, where hardly anything is.
        lowest = min((value for curve in curves for value in curve.accuracy if np.isfinite(value)), default=0.5)
        axes.set_ylim(bottom=min(0.4, lowest - 0.05))
        axes.set_ylabel("mean AUROC of linear probes")
    legend(figure, axes)
    return figure


def _style(curve: Probes, network: str) -> tuple[str, str, str, str]:
    if curve.what == "own":
        return "a layer's own maps", GREEN, "-", "^"
    if curve.network == network:
        return "all maps of the block so far", TRAIN, "-", "o"
    if curve.network.endswith(", untrained"):
        return "all maps so far, untrained network", VAL, "--", "s"
    return f"what a block of {curve.network} hands on", PURPLE, "-", "D"


def activation_maps(maps: ActivationMaps, pictures: Sequence[Any]) -> Figure:
    """A column a prediction: the image, its map, and the map of the randomised network. `pictures` are (h, w[, 3])."""
    count = len(maps.items)
    figure = Figure(figsize=(0.5 + 1.75 * count, 6.1), layout=layout())
    grid = figure.subplots(3, count, squeeze=False)
    for column, item, picture in zip(grid.T, maps.items, pictures, strict=True):
        right = item.true == item.predicted
        for axes in column:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(TRAIN if right else VAL)
            axes.spines[:].set_linewidth(2)
        height, width = picture.shape[:2]
        column[0].imshow(picture, cmap="gray", interpolation="nearest" if height < 64 else None)
        title = _short(item.predicted) if right else f"{_short(item.predicted)}\n(is {_short(item.true)})"
        # A class may be called $x$, which is not a formula.
        column[0].set_title(f"{title}\n{item.confidence:.0%} sure", size=8.5, color=INK, parse_math=False)
        for axes, values in zip(column[1:], (item.map, item.randomised), strict=True):
            axes.imshow(_grey(picture), cmap="gray", interpolation="nearest" if height < 64 else None)
            axes.imshow(
                _positive(values),
                cmap="cividis",
                vmin=0,
                vmax=1,
                alpha=0.65,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="bilinear",
            )
        verdict = "follows the weights" if item.follows else "does not follow\nthe weights"
        column[2].set_xlabel(f"agreement {item.correlation:.2f}\n{verdict}", size=8, color=INK)
    for axes, name in zip(grid[:, 0], ("image", "map", "map, random weights"), strict=True):
        axes.set_ylabel(name, color=INK)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"


def _grey(picture: Any) -> Any:
    return picture if picture.ndim == 2 else picture.mean(2)


def _positive(values: Any) -> Any:
    """What speaks for the class, from 0 to 1."""
    found = np.maximum(values, 0)
    return found / found.max() if found.max() > 0 else found


def layout() -> ConstrainedLayoutEngine:
    """With room at the edges."""
    # Titles stand at the very edge otherwise.
    return ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.08)


def _row(figure: Figure, count: int, *, share: bool = False) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False, sharey=share)[0])


def legend(figure: Figure, axes: Axes) -> None:
    """Above the figure, of what is drawn in `axes`."""
    # Outside: inside, lines may run anywhere. As many columns as letters leave room for.
    handles, labels = axes.get_legend_handles_labels()
    columns = int(figure.get_figwidth() / (0.6 + 0.075 * max(map(len, labels))))
    figure.legend(handles, labels, frameon=False, loc="outside upper left", ncols=max(1, columns), labelcolor=INK)
