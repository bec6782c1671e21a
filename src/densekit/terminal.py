"""What training shows: a live bar with rate and time left, or a line an epoch where there is no terminal."""

import os
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from densekit.formatting import counted, printable
from densekit.training.checkpoint import Progress
from densekit.training.run_estimate import Forecast

_LATE = 1.0  # seconds after which a line says what takes so long


class Log(Console):
    """Standard error, whose reader may leave: that ends what is said, never the work that it is about."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Python itself writes there too, at its end.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


class Display:
    """Writes to `console`, which should be standard error where standard output is for data."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.epochs = 0
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),  # what room there is
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = TaskID(0)
        self._seen = 0

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Says what is done if it takes a second; in a terminal shows from the beginning that it still is."""
        late = threading.Timer(_LATE, self.say, [f"{what} ..."])
        late.daemon = True
        late.start()
        try:
            with self.console.status(printable(what)) if self.console.is_terminal else nullcontext():
                yield
        finally:
            late.cancel()

    def forecast(self, forecast: Forecast, title: str) -> None:
        """What is about to happen, and what it will cost."""
        channels, height, width = forecast.input
        classes = counted(forecast.classes, "class", "classes")
        rows = dict(forecast.decided)
        rows["images"] = ", ".join(f"{count:,} {name}" for name, count in forecast.images.items())
        if forecast.remarks:
            rows["note"] = "; ".join(forecast.remarks)
        if forecast.columns:
            rows["columns"] = forecast.columns
        rows |= {
            "input": f"{height} x {width}, {counted(channels, 'channel')}; {classes}",
            "network": f"{forecast.parameters:,} parameters, {amount(forecast.macs)} MACs an image",
        }
        if forecast.start is not None:
            rows["start"] = forecast.start if forecast.new else f"{forecast.start}, head included"
        if forecast.new:
            rows["new head"] = ", ".join(forecast.new)
        if forecast.adapted:
            rows["adapted"] = "; ".join(forecast.adapted)
        if forecast.plan_reason:
            rows["plan"] = f"{forecast.plan}; {forecast.plan_reason} (measured)"
        rows |= {
            "time": f"about {duration(max(1, forecast.seconds))} for {counted(forecast.steps, 'step')} (predicted)",
            "memory": f"about {amount(forecast.memory_bytes)}B for weights and activations (predicted)",
        }
        self.facts(title, rows)

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """A title, and below it a name and a value each, wrapped to the terminal."""
        self.console.print(Text(printable(title), style="bold"), soft_wrap=True)
        for name, value in rows.items():
            first, *more = textwrap.wrap(
                value, max(40, self.console.width - 12), break_long_words=False, break_on_hyphens=False
            )
            self.say(f"  {name:<10}{first}")
            for line in more:
                self.say(" " * 12 + line)

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
        note = f"{totals.correct / totals.count:.1%} loss {totals.loss / totals.count:.3f}  lr {rate:.2g}  {speed}"
        self._bar.update(
            self._task,
            completed=progress.step,
            description=f"epoch {progress.epoch + 1}/{self.epochs}",
            note=note,
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """A line that stays."""
        # Within 80 columns for any number of epochs that somebody trains.
        line = f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        for split in ("train", "val"):
            if f"{split}_loss" in row:
                line += f"  {split} {_headline(row, split)}loss {row[f'{split}_loss']:.3f}"
        self.say(f"{line}  {duration(row['seconds'])}")

    @contextmanager
    def evaluating(self, split: str, images: int) -> Iterator[Callable[[int], None]]:
        """Shows progress over `images`; yields what to call with the number just done."""
        with self.counting(f"evaluating {split}", images) as advance:
            yield advance

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Shows progress of anything; yields what to call with the number just done."""
        with self._bar if not self._bar.live.is_started else _nothing():
            task = self._bar.add_task(what, total=total, note="")
            yield lambda count: self._bar.advance(task, count)
            self._bar.remove_task(task)


def _headline(row: dict[str, Any], split: str) -> str:
    """The metric that a split is known by, if the row has it."""
    if f"{split}_top1" in row:
        return f"{row[f'{split}_top1']:.2%} "
    return f"AUROC {row[f'{split}_auroc']:.4f} " if f"{split}_auroc" in row else ""


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
    """1.20 k, 42.0 k, 264.8 M, 2.83 G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:,.{2 if number < 9.995 * factor else 1}f} {unit}"
    return f"{number:.0f} "
