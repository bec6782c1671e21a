"""Several processes train one network: the one that a single process trains, where statistics are shared."""

import json
import socket
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import write_photos
from tests.data.xrays import SETTINGS
from tests.faults.command import finish, rows_of, run, start

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "train",
    "digits",
    "--model",
    "densenet_bc_10_4",
    "--epochs",
    "3",
    "--set",
    "batch_size=50",
    "--set",
    "data.limit=330",
)
"""The last batch is not divided evenly."""


@pytest.mark.parametrize("plan", ["concat", "shared"])
def test_two_processes_have_the_loss_curve_of_one(plan: str, tmp_path: Path) -> None:
    # Not stratified: images of which none is on the ReLU's corner in the first epoch.
    settings = ("--set", f"plan={plan}", "--set", "data.stratify=false")
    arguments = ("train", "synthetic:8x8x3:4:430", *ARGUMENTS[2:], *settings)
    for ranks in (1, 2):
        run(*arguments, "--out", f"by-{ranks}", folder=tmp_path, ranks=ranks)
    for one, two in zip(rows_of(tmp_path / "by-1"), rows_of(tmp_path / "by-2"), strict=True):
        for key in ("train_loss", "val_loss"):
            # Sooner or later a value lies on the ReLU's corner, and rounding decides what its gradient is; one process
            # by another plan drifts as far. Eight steps agree to seven digits.
            assert two[key] == pytest.approx(one[key], rel=1e-5 if one["epoch"] == 1 else 2e-2), key


def test_two_processes_have_the_gradient_of_one_where_labels_are_unknown(xrays: Path, tmp_path: Path) -> None:
    """However many of them each process has: after one step, momentum is the gradient.

    Of the head, above which is no ReLU: one value on its corner changes those below by a hundredth.
    """
    settings = SETTINGS | {"data.limit": 32, "class_weights": "balanced", "optimizer.weight_decay": 0}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    momentum = []
    for ranks in (1, 2):
        arguments = ("train", f"csv:{xrays}", "--model", "densenet_bc_10_4", "--epochs", "1", *words)
        run(*arguments, "--out", f"by-{ranks}", folder=tmp_path, ranks=ranks)
        state = load_file(tmp_path / f"by-{ranks}" / "checkpoints/last/state.safetensors")
        momentum.append([state[f"optimizer.classifier.{name}.momentum_buffer"] for name in ("weight", "bias")])
    assert [tuple(tensor.shape) for tensor in momentum[0]] == [(4, 9), (4,)]
    for one, two in zip(*momentum, strict=True):
        assert (one - two).norm() < 1e-3 * one.norm()
    first, second = (rows_of(tmp_path / f"by-{ranks}")[0]["train_loss"] for ranks in (1, 2))
    assert second == pytest.approx(first, rel=1e-5)


def test_hosts_may_keep_the_same_images_in_different_folders(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank, host in enumerate(("a", "b")):
        write_photos(tmp_path / host / "photos", count=6)
        words = ("train", "photos", "--model", "densenet_bc_10_4", "--epochs", "1", "--out", "run")
        settings = ("--image-size", "16", "--set", "batch_size=4", "--set", "plan=concat")
        place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {key: str(value) for key, value in place.items()}
        processes.append(start(*words, *settings, folder=tmp_path / host, environment=environment))
    said = [finish(process, timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert rows_of(tmp_path / "a/run")


def test_pieces_one_after_the_other_train_on_several_processes(tmp_path: Path) -> None:
    """They learn as fast; not alike, as batch statistics are those of the pieces."""
    last = []
    for ranks in (1, 2):
        run(*ARGUMENTS, "--set", "accumulate=3", "--out", f"by-{ranks}", folder=tmp_path, ranks=ranks)
        first, *_, end = (row["train_loss"] for row in rows_of(tmp_path / f"by-{ranks}"))
        assert end < first
        last.append(end)
    assert last[1] == pytest.approx(last[0], rel=0.1)


def test_only_one_process_writes_and_speaks(tmp_path: Path) -> None:
    out, err = run(*ARGUMENTS, "--out", "run", folder=tmp_path, ranks=2)
    assert out.count("test of digits") == 1
    assert err.count("epoch 3/3") == 1
    assert json.loads((tmp_path / "run" / "env.json").read_text())["threads"] == 1


def test_an_error_on_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    _, err = run("train", "digits", "--set", "optimizer.lr=-1", folder=tmp_path, ranks=2, status=1)
    assert "optimizer.lr" in err


def test_checkpoints_by_the_clock_hold_nobody_up(tmp_path: Path) -> None:
    """Each process has its own clock, and they saw different times."""
    words = ("train", "digits", "--model", "densenet_bc_10_4", "--epochs", "4", "--out", "run")
    run(*words, "--set", "checkpoint.every_seconds=0.2", "--set", "data.limit=600", folder=tmp_path, ranks=2)
    assert len(rows_of(tmp_path / "run")) == 4
