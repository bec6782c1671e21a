"""Time to accuracy: one recipe trains the same first weights on the same batches, by densekit and by torchvision.

They take turns, an epoch each, so that what disturbs the machine disturbs both.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Console

from densekit import atomic, strict_json, threads
from densekit.bench.backends import NotApplicable, bench_backends
from densekit.bench.workload import network
from densekit.config import DenseNetConfig, Recipe
from densekit.devices import to_device
from densekit.errors import BadData, InvalidInput
from densekit.formatting import duration
from densekit.models.cost import cost_of
from densekit.recipes import recipe_for
from densekit.report.plots import FAINT, INK, svg
from densekit.runs.run_folder import environment
from densekit.terminal import Display
from densekit.training import allocator
from densekit.training.plan_selection import choose
from densekit.training.setup import TrainContext, prepare
from densekit.training.signals import catch_signals
from densekit.training.state import TrainState
from densekit.training.trainer import end_epoch, start, train_epoch

FILE = "time-to-accuracy.json"
_COLOURS = {"densekit": "#0072B2", "torchvision": "#D55E00"}


@dataclass(frozen=True)
class AccuracySettings:
    """What is trained, and for how long."""

    model: str = "densenet_bc_40_12"
    data: str = "fashion-mnist"
    images: int = 15_000
    """Of training and validation together."""
    epochs: int = 4
    count: int | None = None
    """Threads; none: all."""
    out: Path = Path("results")


def time_to_accuracy(course: AccuracySettings, data_dir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains both, and writes the report and its picture to `course.out`. `say` hears of every epoch.

    Raises InvalidInput for a network that torchvision does not have, BadData where the results cannot be written.
    """
    recipe = _recipe(course)
    with threads.exactly(course.count):
        racers, plan = _racers(recipe, data_dir)
        rows: list[dict[str, Any]] = []
        with TemporaryDirectory(prefix="densekit-race-") as folder, catch_signals() as stop:
            display = Display(Console(quiet=True))
            steps = len(racers[0][1].loader("train", recipe.augment))
            for epoch in range(recipe.epochs):
                # Who was first is second in the next.
                for name, prepared, state in racers if epoch % 2 == 0 else reversed(racers):
                    started = time.monotonic()
                    with display.training(recipe.epochs, steps, state.progress.step), allocator.retain_freed_memory():
                        train_epoch(state, prepared, Path(folder), display, stop)
                    row = {"name": name, **end_epoch(state, prepared, Path(folder), display, stop)}
                    rows.append(row | {"with_validation": time.monotonic() - started})
                    trained = duration(row["seconds"])
                    say(f"{name:<12} epoch {row['epoch']}: {row['val_top1']:.2%} on validation after {trained}")
        report = {
            "what": "accuracy",
            "recipe": recipe.model_dump(mode="json"),
            "plan": plan,
            "environment": environment(),
            "rows": rows,
        }
    _write(report, course.out)
    return report


def _recipe(course: AccuracySettings) -> Recipe:
    config = network(course.model)
    recipe = recipe_for("quick", course.data, config)
    changes = {
        "data": recipe.data.model_copy(update={"limit": course.images}),
        "checkpoint": recipe.checkpoint.model_copy(update={"every_seconds": None}),  # both would pay for them alike
        "epochs": course.epochs,
    }
    return recipe.model_copy(update=changes)


def _racers(recipe: Recipe, data_dir: Path) -> tuple[list[tuple[str, TrainContext, TrainState]], str]:
    """Both with equal weights; and densekit's plan, measured as in any run."""
    ours = prepare(recipe, data_dir)
    if "val" not in ours.data.splits:
        raise InvalidInput(f"{recipe.data.source} has no validation images to compare by; name other DATA")
    ours, choice = choose(ours, cost_of(ours.recipe.model).macs)
    config = ours.recipe.model
    assert isinstance(config, DenseNetConfig)
    peer = next(each for each in bench_backends("train") if each.name == "torchvision")
    # channels_last, as ours; it is the faster layout of torchvision's nets too (see `bench train`).
    try:
        net: Any = peer.build(config, ours.model.state_dict())
    except NotApplicable as reason:
        raise InvalidInput(f"{config.name} cannot race: {reason}; try --model densenet_bc_40_12") from reason
    net = to_device(net, ours.device)
    sides = [("densekit", ours), ("torchvision", replace(ours, model=net))]
    return [(name, prepared, start(prepared)) for name, prepared in sides], choice.plan


def milestones(rows: Sequence[dict[str, Any]]) -> list[tuple[float, dict[str, float]]]:
    """(accuracy, seconds of training by name) for every accuracy that both have reached at an epoch's end."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    found = []
    for goal in sorted({round(row["val_top1"], 2) for row in rows}):
        reached = {
            name: [row["seconds"] for row in rows if row["name"] == name and row["val_top1"] >= goal] for name in names
        }
        if all(reached.values()):
            found.append((goal, {name: min(seconds) for name, seconds in reached.items()}))
    return found


def _write(report: dict[str, Any], folder: Path) -> None:
    picture = chart(report)
    png = io.BytesIO()
    picture.savefig(png, dpi=120, metadata={"Software": None})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(folder / FILE, strict_json.dumps(report, indent=1) + "\n")
        atomic.write((folder / FILE).with_suffix(".svg"), svg(picture))
        atomic.write((folder / FILE).with_suffix(".png"), png.getvalue())
    except OSError as error:
        raise BadData(f"cannot write results to {folder}: {error.strerror}; name another --out") from error


def chart(report: dict[str, Any]) -> Figure:
    """Validation accuracy over the seconds of training that it took."""
    recipe, rows = report["recipe"], report["rows"]
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, colour in _COLOURS.items():
        own = [row for row in rows if row["name"] == name]
        axes.plot([r["seconds"] for r in own], [r["val_top1"] for r in own], "o-", color=colour, lw=2, ms=4, label=name)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("seconds of training", color=INK)
    axes.set_title(
        f"{recipe['model']['name']}, {recipe['data']['source']}: validation accuracy", loc="left", size=10, color=INK
    )
    axes.grid(color=FAINT, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure
