"""What training prints fits a terminal of 80 columns, also for the longest runs."""

import io
import re
import time
from dataclasses import replace

import pytest
from rich.console import Console

from densekit import terminal
from densekit.formatting import amount
from densekit.terminal import Display
from densekit.training.run_estimate import RunEstimate

IMAGENET = RunEstimate(
    images={"train": 1_231_167, "val": 50_000, "test": 100_000},
    classes=1000,
    input=(3, 1024, 1024),
    parameters=128_681_000,
    macs=99_999_999_999,
    start="timm:deit_tiny_distilled_patch16_224",
    new=("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"),
    adapted=("embeddings.projection.weight from 3 to 4 input channels: the 3 in turns, divided by their turns",),
    steps=123_703_650,
    plan="checkpoint",
    plan_reason="concat took 10.1 times as long; shared took 10.2 times as long",
    memory_bytes=1_234_567_890_123,
    seconds=99 * 3600 + 3599,
)


def shown(width: int = 80, *, terminal: bool = False) -> tuple[Display, io.StringIO]:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None, force_interactive=terminal)
    return Display(console), file


def test_the_forecast_has_a_line_for_each_fact() -> None:
    display, file = shown()
    display.facts("densenet121 on imagenet -> runs/imagenet-densenet121", IMAGENET.rows())
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    names = [line[:12].strip() for line in lines[1:] if line[:12].strip()]
    assert names == ["images", "input", "network", "start", "new head", "adapted", "plan", "time", "memory"]


def test_a_fact_too_long_for_a_line_wraps_below_itself() -> None:
    display, file = shown()
    display.facts("a on b", replace(IMAGENET, new=("backbone.head.weight",) * 6, adapted=(), plan_reason="").rows())
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.strip() for line in lines if line.startswith(" " * 12)] == [", ".join(["backbone.head.weight"] * 3)]


@pytest.mark.parametrize("epochs", [1, 30, 300])
def test_an_epoch_is_one_line(epochs: int) -> None:
    display, file = shown()
    with display.training(epochs, steps=1, done=0):
        row = {
            "train_loss": 10.1234,
            "train_top1": 1.0,
            "val_loss": 10.5678,
            "val_top1": 1.0,
            "seconds": 99 * 3600 + 3599,
        }
        display.epoch({"epoch": epochs, **row})
    (line,) = file.getvalue().splitlines()
    assert len(line) <= 80
    assert f"epoch {epochs}/{epochs}" in line


def test_the_live_bar_keeps_its_numbers() -> None:
    display, file = shown(terminal=True)
    with display.training(300, steps=10_000, done=0):
        display.step(epoch=300, step=2_999_999, images=64, accuracy=0.9, loss=12.345, rate=0.0123)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue().replace("\r", "\n"))
    (line,) = {line.rstrip() for line in plain.splitlines() if "300/300" in line}
    assert len(line) <= 80
    assert all(words in line for words in ("90.0%", "loss 12.345", "lr 0.012", "images/s", "left"))


def test_what_takes_long_is_said_and_what_does_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LATE", 0.05)
    display, file = shown()
    with display.phase("reading photos"):
        pass
    time.sleep(0.1)
    assert not file.getvalue()
    with display.phase("reading photos"):
        time.sleep(0.3)
    assert file.getvalue() == "reading photos ...\n"


def test_decisions_stand_first_with_their_reasons() -> None:
    display, file = shown()
    display.facts("a on b", replace(IMAGENET, decided=(("model", "densenet121: for photographs"),)).rows())
    assert file.getvalue().splitlines()[1] == "  model     densenet121: for photographs"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 "),
        (999, "999 "),
        (1200, "1.20 k"),
        (42_000, "42.0 k"),
        (9_996, "10.0 k"),
        (264.8e6, "264.8 M"),
        (2.834e9, "2.83 G"),
    ],
)
def test_amounts_have_three_digits(number: float, words: str) -> None:
    assert amount(number) == words
