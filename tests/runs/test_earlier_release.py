"""A run that release 0.1.0 began is loaded and resumed: `of_0_1_0/`, its folder, stopped in the first of two epochs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import densekit
from densekit.runs import run_folder

STOPPED = Path(__file__).parent / "of_0_1_0"
# What that release predicted for the first two digits, rounded to six decimals.
PROBABILITIES = [
    [0.089382, 0.118866, 0.102936, 0.106363, 0.084122, 0.101265, 0.095166, 0.114525, 0.078965, 0.108411],
    [0.071054, 0.133558, 0.110878, 0.097207, 0.084544, 0.108684, 0.08675, 0.137968, 0.07176, 0.097597],
]


def test_its_model_folder_predicts_what_it_did() -> None:
    classifier = densekit.load(STOPPED / "checkpoints" / "last")
    for image, expected in zip(load_digits().images, PROBABILITIES, strict=False):
        rows = classifier.predict((image * 255 / 16).round().astype(np.uint8)).top(10)
        found = [float(row["probability"]) for row in sorted(rows, key=lambda row: int(row["index"]))]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_it_is_resumed_without_a_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recipe and images count as unchanged, though settings have been added since."""
    run = shutil.copytree(STOPPED, tmp_path / "run")
    finished = densekit.api.resume(run)
    assert "going on in epoch 1 after step 3" in capsys.readouterr().err
    assert len(run_folder.metrics(run)) == 2
    assert finished.evaluate().top1 == finished.result.top1
