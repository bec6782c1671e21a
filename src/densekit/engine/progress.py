"""What training shows: a live bar with rate and time left, or a line an epoch where there is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from densekit.engine.setup import Plan
from densekit.engine.state import Progress


class Display:
    """Writes to `console`, which should be standard error where standard output is for data."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.epochs = 0
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = TaskID(0)
        self._seen = 0

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def plan(self, plan: Plan, title: str) -> None:
        """What is about to happen, and what it will cost."""
        images = ", ".join(f"{count:,} {name}" for name, count in plan.images.items())
        channels, height, width = plan.input
        self.console.print(f"[bold]{title}[/]")
        self.console.print(f"  images   {images}; {plan.classes} classes; {height} x {width}, {channels} channels")
        self.console.print(f"  network  {plan.parameters:,} parameters, {amount(plan.macs)} MACs an image")
        self.console.print(
            f"  cost     {plan.steps:,} steps; about {duration(plan.seconds)} and {amount(plan.memory_bytes)}B of "
            "memory for weights and activations (predicted)"
        )

    @contextmanager
    def training(self, epochs: int, steps: int, done: int) -> Iterator[None]:
        """Shows the bar for `epochs * steps` steps, `done` of them from before."""
        self.epochs = epochs
        self._seen = 0
        with self._bar:
            self._task = self._bar.add_task("training", total=epochs * steps, completed=done, note="")
            yield

    def step(self, progress: Progress, images: int, rate: float) -> None:
        """After a step of `images` samples at learning rate `rate`."""
        self._seen += images
        totals = progress.totals
        elapsed = self._bar.tasks[0].elapsed or 0
        speed = f"{self._seen / elapsed:,.0f} images/s" if elapsed else ""
        note = (
            f"loss {totals.loss / totals.count:.3f}  top-1 {totals.correct / totals.count:.1%}  lr {rate:.2g}  {speed}"
        )
        self._bar.update(
            self._task,
            completed=progress.step,
            description=f"epoch {progress.epoch + 1}/{self.epochs}",
            note=note,
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """A line that stays."""
        line = (
            f"epoch {row['epoch']:>3}/{self.epochs}  train loss {row['train_loss']:.4f}  top-1 {row['train_top1']:.2%}"
        )
        if "val_loss" in row:
            line += f"  validation loss {row['val_loss']:.4f}  top-1 {row['val_top1']:.2%}"
        self.console.print(f"{line}  {duration(row['seconds'])}", highlight=False)

    @contextmanager
    def evaluating(self, split: str, images: int) -> Iterator[Callable[[int], None]]:
        """Shows progress over `images`; yields what to call with the number just done."""
        with self._bar if not self._bar.live.is_started else _nothing():
            task = self._bar.add_task(f"evaluating {split}", total=images, note="")
            yield lambda count: self._bar.advance(task, count)
            self._bar.remove_task(task)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def amount(number: float) -> str:
    """1.2 k, 264.8 M, 2.83 G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 100 * factor else f"{number / factor:,.1f} {unit}"
    return f"{number:.0f} "
