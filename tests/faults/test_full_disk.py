"""A disk that is full in the middle of a checkpoint: a clear message, and a run that goes on when there is room."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.command import run, state_of

pytestmark = pytest.mark.slow

ARGUMENTS = (
    "train", "digits", "--model", "densenet_bc_10_4", "--epochs", "3", "--out", "run",
    "--set", "data.limit=300", "--set", "batch_size=32", "--set", "checkpoint.every_steps=2",
)  # fmt: skip


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_leaves_the_run_resumable(ranks: int, small_disk: Path, tmp_path: Path) -> None:
    run(*ARGUMENTS, folder=tmp_path, ranks=ranks)
    # Room for one checkpoint, not for a second beside it.
    ballast = small_disk / "ballast"
    free = 3 * 2**20
    one = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints" / "last").iterdir())
    ballast.write_bytes(bytes(free - int(1.6 * one) - 100_000))
    _, err = run(*ARGUMENTS, folder=small_disk, ranks=ranks, status=3 if ranks == 1 else 1)
    assert "No space left on device" in err
    assert "densekit resume run" in err
    assert not list((small_disk / "run" / "checkpoints").glob(".*.new"))  # would keep the disk full
    ballast.unlink()
    run("resume", "run", folder=small_disk, ranks=ranks)
    assert state_of(small_disk / "run") == state_of(tmp_path / "run")


def test_shards_are_all_there_or_none(small_disk: Path, tmp_path: Path) -> None:
    source = "synthetic:32x32x3:4:2000"  # noise: six megabytes as PNG
    _, err = run("data", "shard", source, "--out", small_disk / "out", "--shard-size", "1", folder=tmp_path, status=3)
    assert "No space left on device" in err
    assert list(small_disk.iterdir()) == []
    run("data", "shard", "synthetic:32x32x3:4:300", "--out", "out", "--shard-size", "1", folder=small_disk)
    assert len(list((small_disk / "out").glob("*.tar"))) == 2
