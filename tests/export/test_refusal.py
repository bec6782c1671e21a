"""What is not proved is not kept; what cannot be done is said in one line."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from densekit import export_model, optional_packages
from densekit.errors import InvalidInput, ProofFailed
from densekit.export import writers
from tests.conftest import Command


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter that gets one weight wrong, by a hundredth."""
    write = writers.write_onnx

    def wrong(program: Any, passport: Any, path: Path) -> None:
        write(program, passport, path)
        model = onnx.load(str(path))
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        values = numpy_helper.to_array(weight).copy()
        values.flat[np.abs(values).argmax()] *= 1.01
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(writers, "write_onnx", wrong)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("name", ["onnx", "openvino", "triton"])
def test_a_broken_graph_is_refused_and_leaves_no_file(
    densekit: Command, tiny_run: Path, tmp_path: Path, name: str
) -> None:
    status, out, err = densekit("export", tiny_run, "--format", name, "--out", tmp_path / "made" / "out")
    assert (status, out) == (5, "")
    assert "is refused: at batch 1 its logits differ from float64" in err.splitlines()[-1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_answers_that_are_no_numbers_are_refused(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from densekit.inference import runtimes

    def empty(path: Path, threads: int | None = None) -> runtimes.InferenceSession:
        opened = runtimes.onnxruntime(path, threads)
        return runtimes.InferenceSession(lambda x: opened.run(x) * np.float32(np.nan), opened.strings, opened.runtime)

    monkeypatch.setitem(runtimes.OPENERS, ".onnx", empty)
    with pytest.raises(ProofFailed, match="differ from float64 by nan"):
        export_model(tiny_run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--format", "onx"], 2, "did you mean onnx"),
        (["--format", "torch", "--int8"], 2, "take onnx, openvino or triton"),
        (["--format", ","], 2, "--format names nothing"),
        (["--data", "fashon-mnist"], 2, "did you mean fashion-mnist"),
        (["--data", "synthetic:8x8x1:3"], 3, "the classes of synthetic:8x8x1:3 are not those of"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    densekit: Command, tiny_run: Path, arguments: list[str], status: int, words: str
) -> None:
    found = densekit("export", tiny_run, "--out", "out", *arguments)
    assert found[0] == status
    assert words in found[2].splitlines()[-1]
    assert not Path("out").exists()


def test_a_folder_that_holds_something_is_not_written_over(densekit: Command, tiny_run: Path) -> None:
    status, _, err = densekit("export", tiny_run, "--out", tiny_run)
    assert (status, err.count("\n")) == (2, 1)
    assert "exists and is not empty" in err


def test_a_missing_package_is_named_with_its_extra(
    densekit: Command, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(optional_packages, "find_spec", lambda name: None if name.startswith("onnx") else there(name))
    status, _, err = densekit("export", tiny_run, "--out", "out")
    assert (status, err.count("\n")) == (2, 1)
    assert "needs onnx and onnxscript and onnxruntime, an extra: pip install 'densekit[export]'" in err
    (tmp_path / "model.onnx").write_bytes(b"x")
    status, _, err = densekit("predict", tmp_path / "model.onnx", "a.png")
    assert (status, err.count("\n")) == (2, 1)
    assert "model.onnx needs onnxruntime, an extra" in err


def test_torch_export_needs_no_extra(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_packages, "find_spec", lambda _: None)
    assert export_model(tiny_run, tmp_path / "out", formats=("torch",)).files["torch"].is_file()


def test_an_exported_file_is_not_exported_again(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="exported file already"):
        export_model(tmp_path / "model.onnx", tmp_path / "out")
