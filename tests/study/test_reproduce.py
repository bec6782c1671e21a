"""`densekit reproduce` on data of the right formats, a few images and one epoch: evidence, and what it admits to."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Command

# One plan, as measuring two on a network of forty layers takes seconds.
SHORT = ("--epochs", 1, "--set", "batch_size=4", "--set", "plan=concat")


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 in its authors' format, of noise; torchvision's checksums are off, since these are not the originals."""
    folder = tmp_path / "data" / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        rows = random.integers(0, 256, (10, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": list(range(10))}))
    labels = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": labels}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_a_shortened_run_is_evidence_of_what_it_was(densekit: Command, cifar: Path, tmp_path: Path) -> None:
    words = ("reproduce", "cifar10+/densenet_40_12", "--seeds", 2, "--data-dir", cifar, "--limit", 8, *SHORT)
    status, out, err = densekit(*words, "--json")
    assert status == 0, err
    document = json.loads(out)
    folder = tmp_path / "runs" / "reproduce" / "cifar10+-densenet_40_12"
    assert document == json.loads((folder / "evidence.json").read_text())
    runs = [folder / "runs" / "densenet_40_12" / f"seed{seed}" for seed in (0, 1)]
    errors = [100 * (1 - json.loads((run / "result.json").read_text())["top1"]) for run in runs]
    assert document["errors"] == pytest.approx(errors)
    assert document["mean"] == pytest.approx(np.mean(errors))
    assert document["deviation"] == pytest.approx(np.std(errors, ddof=1))
    assert document["difference"] == pytest.approx(np.mean(errors) - 5.24)
    assert document["images"] == 10
    assert document["complete"] is False
    assert "epochs: 300 -> 1" in document["changes"]
    assert document["recipe"]["optimizer"]["weight_decay"] == 1e-4
    # The same again does nothing, and says that it is no reproduction.
    status, out, err = densekit(*words)
    assert status == 0, err
    assert "not a reproduction" in out
    assert "epochs: 300 -> 1" in out


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_ten_crops_are_of_the_same_training(densekit: Command, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / "imagenet" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(random.integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    small = (
        "--set",
        "optimizer.lr=0.001",
        "--set",
        "data.image_size=32",
        "--set",
        "data.workers=0",
        "--data-dir",
        tmp_path / "data",
        *SHORT,
    )
    status, out, err = densekit("reproduce", "imagenet-10crop/densenet121", *small, "--json")
    assert status == 0, err
    crops = json.loads(out)
    assert crops["ten_crop"] is True
    folder = tmp_path / "runs" / "reproduce" / "imagenet-densenet121"
    run = folder / "runs" / "densenet121" / "seed0"
    kept = json.loads((run / "ten_crop.json").read_text())
    assert kept["count"] == 6
    assert crops["mean"] == pytest.approx(100 * (1 - kept["top1"]))
    trained = (run / "result.json").stat().st_mtime_ns
    status, out, err = densekit("reproduce", "imagenet/densenet121", *small, "--json")
    assert status == 0, err
    assert (run / "result.json").stat().st_mtime_ns == trained
    assert json.loads(out)["ten_crop"] is False
    assert {path.name for path in folder.glob("evidence*.json")} == {"evidence.json", "evidence-10crop.json"}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["cifar10+/densenet_bc_100_21"], 2, "did you mean cifar10+/densenet_bc_100_12"),
        (["cifar10+/wrn_28"], 2, "cannot be run"),
        (["fig4/variants"], 2, "run: densekit study ablation"),
        (["imagenet/densenet121", "--data-dir", "none"], 3, "cannot be downloaded"),
        (["cifar10+/densenet_40_12", "--set", "optimizer.rate=1"], 2, "unknown setting"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_reproduced_is_one_line(
    densekit: Command, arguments: list[str], status: int, words: str
) -> None:
    got, out, err = densekit("reproduce", *arguments)
    assert (got, out) == (status, "")
    assert words in err.splitlines()[-1]


def test_a_reproduction_can_be_handed_out(densekit: Command, tmp_path: Path) -> None:
    status, _, err = densekit("reproduce", "cifar10+/densenet_bc_100_12", "--seeds", 2, "--commands", "lines.txt")
    assert status == 0, err
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    folder = tmp_path / "runs" / "reproduce" / "cifar10+-densenet_bc_100_12"
    assert lines == [f"densekit study {folder} --only densenet_bc_100_12/{seed}" for seed in (0, 1)]
