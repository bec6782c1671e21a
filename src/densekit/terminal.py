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

from densekit.formatting import duration, printable

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

    def log(self, line: str) -> None:
        """A line that stays."""
        self.console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Says what is done if it takes a second; in a terminal shows from the beginning that it still is."""
        late = threading.Timer(_LATE, self.log, [f"{what} ..."])
        late.daemon = True
        late.start()
        try:
            with self.console.status(printable(what)) if self.console.is_terminal else nullcontext():
                yield
        finally:
            late.cancel()

    def facts(self, title: str, rows: Mapping[str, str]) -> None:
        """A title, and below it a name and a value each, wrapped to the terminal."""
        self.console.print(Text(printable(title), style="bold"), soft_wrap=True)
        for name, value in rows.items():
            first, *more = textwrap.wrap(
                value, max(40, self.console.width - 12), break_long_words=False, break_on_hyphens=False
            )
            self.log(f"  {name:<10}{first}")
            for line in more:
                self.log(" " * 12 + line)

    @contextmanager
    def training(self, epochs: int, steps: int, done: int) -> Iterator[None]:
        """Shows the bar for `epochs * steps` steps, `done` of them from before."""
        self.epochs = epochs
        self._seen = 0
        with self._bar:
            self._task = self._bar.add_task("training", total=epochs * steps, completed=done, note="")
            yield

    def step(self, *, epoch: int, step: int, images: int, accuracy: float, loss: float, rate: float) -> None:
        """After a step.

        Args:
            epoch: which is trained, from 1.
            step: steps done before this one, over all epochs.
            images: samples of this step.
            accuracy: share of right answers in this epoch so far.
            loss: mean loss of this epoch so far.
            rate: the step's learning rate.
        """
        self._seen += images
        elapsed = self._bar.tasks[0].elapsed or 0
        speed = f"{self._seen / elapsed:,.0f} images/s" if elapsed else ""
        self._bar.update(
            self._task,
            completed=step,
            description=f"epoch {epoch}/{self.epochs}",
            note=f"{accuracy:.1%} loss {loss:.3f}  lr {rate:.2g}  {speed}",
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """A line that stays."""
        # Within 80 columns for any number of epochs that somebody trains.
        line = f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        for split in ("train", "val"):
            if f"{split}_loss" in row:
                line += f"  {split} {_headline(row, split)}loss {row[f'{split}_loss']:.3f}"
        self.log(f"{line}  {duration(row['seconds'])}")

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


def display_of(console: Console | None, *, leads: bool = True) -> Display:
    """Of the process that speaks, to `console` or standard error; the others have one that nobody sees."""
    return Display((console or Log()) if leads else Console(quiet=True))
