"""Training does what its recipe says, and can be stopped and continued."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import densekit
from densekit.config import DataConfig, DenseNetConfig, Recipe, ScheduleConfig
from densekit.distributed.process_group import ALONE, DistributedContext
from densekit.errors import Diverged
from densekit.models import config_for
from densekit.precision import repeatable
from densekit.recipes import recipe_for
from densekit.runs import run_folder
from densekit.training import run_checkpoints, trainer
from densekit.training.checkpoint import save_checkpoint
from densekit.training.schedule import learning_rate
from densekit.training.signals import Stop
from densekit.training.state import TrainState
from tests.narrow import expect_type, not_none

SMALL = {"data.limit": 200, "batch_size": 50}


def test_a_synthetic_set_is_learned(tmp_path: Path) -> None:
    run = densekit.train("synthetic:8x8x3:4:400", model="densenet_bc_10_8", epochs=6, out=tmp_path / "run")
    assert not_none(run.result.top1) > 0.9
    assert run.result.split == "test"
    assert run.evaluate().top1 == run.result.top1


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    weights = [
        load_file(
            densekit.train(
                "digits", model="densenet_bc_10_4", epochs=1, seed=seed, out=tmp_path / name, settings=SMALL
            ).folder
            / "checkpoints/last/model.safetensors"
        )["classifier.weight"]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_is_saved_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    arguments = ["train", "digits", "--model", "densenet_bc_10_4", "--epochs", "4", "--set", "model.dropout_rate=0.2"]
    arguments += ["--set", "data.limit=400"]

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "densekit", *words]

    subprocess.run(command(*arguments, "--out", "whole"), cwd=tmp_path, check=True, capture_output=True)
    process = subprocess.Popen(command(*arguments, "--out", "cut"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "cut" / "metrics.jsonl").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143
    assert "densekit resume cut" in err
    subprocess.run(command("resume", "cut"), cwd=tmp_path, check=True, capture_output=True)
    name = "checkpoints/last/model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of training at each checkpoint."""
    seconds: list[float] = []

    def record(folder: Path, state: TrainState, *others: Any) -> None:
        seconds.append(state.progress.seconds)
        save_checkpoint(folder, state, *others)

    monkeypatch.setattr(run_checkpoints, "save_checkpoint", record)
    return seconds


def test_every_checkpoint_counts_the_time_up_to_it(tmp_path: Path, saved: list[float]) -> None:
    """Also in the middle of the first epoch: a run that is cut there has trained for more than no time."""
    settings = SMALL | {"checkpoint.every_steps": 1}
    densekit.train("digits", model="densenet_bc_10_4", epochs=2, out=tmp_path / "run", settings=settings)
    assert len(saved) == 1 + 2 * (200 // 50 + 1)
    assert saved[0] == 0 < saved[1]
    assert saved == sorted(saved)
    assert saved[4] > saved[1]


@pytest.mark.parametrize(("seconds", "expected"), [(1e-9, 11), (1e9, 3)])
def test_checkpoints_come_by_the_clock_too(seconds: float, expected: int, tmp_path: Path, saved: list[float]) -> None:
    """Besides the first and those of the epochs' ends: after each of four steps."""
    settings = SMALL | {"checkpoint.every_seconds": seconds}
    densekit.train("digits", model="densenet_bc_10_4", epochs=2, out=tmp_path / "run", settings=settings)
    assert len(saved) == expected


class Follower(DistributedContext):
    """One that hears what the leader says."""

    def sums(self, *numbers: float) -> list[float]:
        said, due = numbers
        assert due == 0, "only the leader's clock counts"
        return [said, self.size - 1]


@pytest.mark.parametrize("leaders", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_the_leaders_clock_decides_for_all(leaders: bool, own: bool) -> None:
    """Saving is a collective: who saves alone waits for ever."""
    world = Follower(rank=1, size=1 + leaders)
    assert trainer.agreed(Stop(), world, due=own) == (False, leaders)
    assert trainer.agreed(Stop(), ALONE, due=own) == (False, own)


@pytest.mark.slow
def test_who_reads_along_may_leave(tmp_path: Path) -> None:
    """`densekit train ... 2>&1 | head -n 1`: the run goes on."""
    words = ["train", "digits", "--model", "densenet_bc_10_4", "--epochs", "2", "--out", "run"]
    with subprocess.Popen(
        [sys.executable, "-m", "densekit", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline()
        process.stderr.close()
        assert process.stdout is not None
        assert b"top-1" in process.stdout.read()
    assert process.returncode == 0
    assert (tmp_path / "run" / "result.json").exists()


def test_cudnn_adds_up_in_one_order_during_a_run() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with repeatable(torch.device("cuda")):
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert (cudnn.deterministic, cudnn.benchmark) == before


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    settings = SMALL | {"optimizer.lr": 1e20, "schedule.name": "steps"}
    with pytest.raises(Diverged, match="learning rate"):
        densekit.train("digits", model="densenet_bc_10_4", epochs=3, out=tmp_path / "run", settings=settings)


def test_selecting_the_best_reports_the_best_validated_epoch(tmp_path: Path) -> None:
    settings = SMALL | {"select": "best"}
    run = densekit.train("digits", model="densenet_bc_10_4", epochs=3, out=tmp_path / "run", settings=settings)
    assert (run.folder / "checkpoints" / "result").read_text() == "best"
    card = densekit.load(run.folder).card
    assert card.metrics["split"] == "test"
    # Of the epoch that was the best, counted from 1 as the rows are.
    assert {"epoch": card.provenance["epochs"], "step": card.provenance["step"]} in [
        {key: row[key] for key in ("epoch", "step")} for row in run_folder.metrics(run.folder)
    ]


def test_a_folder_of_photographs_trains_and_predicts(photos: Path, tmp_path: Path) -> None:
    settings = {"data.image_size": 24, "batch_size": 8}
    run = densekit.train(str(photos), model="densenet_bc_10_8", epochs=3, out=tmp_path / "run", settings=settings)
    best = densekit.load(run.folder).predict(photos / "dog" / "0.png").top(2)
    assert {row["class"] for row in best} == {"cat", "dog"}


def test_starting_from_a_model_takes_its_weights(tmp_path: Path, tiny_run: Path) -> None:
    settings = SMALL | {"optimizer.lr": 1e-12, "ema.decay": 0.0, "optimizer.weight_decay": 0.0}
    run = densekit.train(
        "digits", model="densenet_bc_10_8", epochs=1, init=str(tiny_run), out=tmp_path / "run", settings=settings
    )
    old = load_file(tiny_run / "checkpoints/last/model.safetensors")
    new = load_file(run.folder / "checkpoints/last/model.safetensors")
    torch.testing.assert_close(new["classifier.weight"], old["classifier.weight"])


def test_one_cycle_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    steps = 40
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.5, total_steps=steps + 1, pct_start=0.25, div_factor=25, final_div_factor=400
    )
    config = ScheduleConfig(name="one_cycle", warmup=9.25 / 40, start=0.04, end=1e-4)
    for step in range(steps + 1):
        assert learning_rate(config, 0.5, step / steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        if step < steps:
            theirs.step()


def test_the_papers_steps_fall_at_half_and_three_quarters() -> None:
    recipe = recipe_for("c10+", "cifar10")
    rates = [learning_rate(recipe.schedule, recipe.optimizer.lr, epoch / 300) for epoch in (0, 149, 150, 224, 225, 299)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    imagenet = recipe_for("imagenet", "imagenet")
    rates = [learning_rate(imagenet.schedule, 0.1, epoch / 90) for epoch in (29, 30, 59, 60)]
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(
    ("name", "epochs", "dropout", "protocol", "select", "augmented"),
    [
        ("c10", 300, 0.2, "final", "last", False),
        ("c10+", 300, 0.0, "final", "last", True),
        ("c100", 300, 0.2, "final", "last", False),
        ("c100+", 300, 0.0, "final", "last", True),
        ("svhn", 40, 0.2, "tune", "best", False),
    ],
)
def test_the_papers_small_recipes(
    name: str, epochs: int, dropout: float, protocol: str, select: str, augmented: bool
) -> None:
    """Huang et al. 2017, sec. 4.2: dropout only where there is no augmentation."""
    recipe: Recipe = recipe_for(name, "cifar10", config_for("densenet_40_12"))
    assert (recipe.epochs, recipe.batch_size, recipe.data.protocol, recipe.select) == (epochs, 64, protocol, select)
    assert expect_type(recipe.model, DenseNetConfig).dropout_rate == dropout
    assert recipe.augment.flip == (recipe.augment.crop == "pad") == augmented
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.1, 0.9, True)
    assert optimizer.weight_decay == 1e-4
    assert recipe.label_smoothing == recipe.ema.decay == 0
    if name == "svhn":
        assert recipe.data == DataConfig(source="cifar10", val_count=6000, normalise="unit", stratify=True)
