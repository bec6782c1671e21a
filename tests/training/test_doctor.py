"""`densekit doctor` tells what is installed, and proves a resume by trying it; it notices where either is not so."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from densekit import train
from densekit.errors import BadData, ProofFailed
from densekit.ops.backends.base import Moments
from densekit.ops.backends.cpu import library
from densekit.ops.backends.cpu.backend import CpuKernels
from densekit.runs import run_folder
from densekit.training import doctor, resume_test
from tests.faults.command import run
from tests.narrow import expect_type


def test_an_installation_in_order_passes() -> None:
    found = doctor.examine()
    assert {check["name"]: check["passed"] for check in found["checks"]} == {"kernels": True, "threads": True}
    assert found["kernels"] == library.build_name()


def test_kernels_that_compute_something_else_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    if not library.available():
        pytest.skip("no compiler was there at installation")
    real = CpuKernels.conv3x3

    def wrong(*arguments: Any, moments: bool) -> tuple[Tensor, Moments]:
        y, found = real(*arguments, moments=moments)
        return y.mul_(1.01), found

    monkeypatch.setattr(CpuKernels, "conv3x3", wrong)
    failed = [check for check in doctor.examine()["checks"] if not check["passed"]]
    assert [check["name"] for check in failed] == ["kernels"]
    assert "differ" in failed[0]["found"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="not a run"):
        resume_test.run_resume_test(tmp_path, say=print)


def test_steps_that_were_not_trained_prove_nothing(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that nobody trained are equal."""
    idle = [sys.executable, "-S", "-c", ""]
    monkeypatch.setattr(resume_test, "_start", lambda *_: subprocess.Popen(idle, stderr=subprocess.PIPE, text=True))
    with pytest.raises(BadData, match="proves nothing"):
        resume_test.run_resume_test(tiny_run, say=print)


@pytest.mark.slow
def test_a_run_of_one_step_an_epoch_trains_all_that_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"data.limit": 60, "batch_size": 60}
    trained = train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings).folder
    wait, ended = resume_test._wait, []

    def waited(process: subprocess.Popen[str]) -> None:
        wait(process)
        copy = Path(expect_type(process.args, list)[3])
        ended.append(json.loads((copy / "checkpoints/last/state.json").read_text())["progress"]["step"])

    monkeypatch.setattr(resume_test, "_wait", waited)
    proof = resume_test.run_resume_test(trained, say=print)
    assert ended == [proof.first_step + proof.steps] * 2


@pytest.mark.slow
def test_a_resume_is_proved_on_copies(tiny_run: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*") if path.is_file()}
    out, _ = run("doctor", tiny_run, "--json", folder=tmp_path)
    proof = json.loads(out)
    assert proof["exact"]
    assert proof["first_step"] < proof["killed_at"] < proof["first_step"] + proof["steps"]
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_resume_that_differs_is_a_failed_proof(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy is executed by another plan: the same but for rounding."""
    real = run_folder.write_recipe
    monkeypatch.setattr(
        run_folder,
        "write_recipe",
        lambda folder, recipe: real(
            folder, recipe.model_copy(update={"plan": "shared" if folder.name == "cut" else "concat"})
        ),
    )
    with pytest.raises(ProofFailed, match=r"model\.safetensors"):
        resume_test.run_resume_test(tiny_run, say=print)
