"""The fastest engine that passes its proof serves, and another one answers the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densekit import export_model, load
from densekit.errors import InvalidInput, ProofFailed
from densekit.inference.runtimes import InferenceSession
from densekit.serve import engines
from tests.export.nets import write_net
from tests.serve.servers import picture


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("net"), "densenet_bc_10_4", image_size=16, in_channels=1, num_classes=4)


class Log(list[tuple[str, dict[str, Any]]]):
    def __call__(self, event: str, **facts: Any) -> None:
        self.append((event, facts))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self if name == event]


def chosen(net: Path, folder: Path, say: Log, **options: Any) -> engines.Engine:
    return engines.choose(str(net), folder, 4, **({"wanted": None, "threads": 1} | options), say=say)


def test_all_that_are_installed_are_timed_and_the_best_is_taken(net: Path, tmp_path: Path) -> None:
    say = Log()
    engine = chosen(net, tmp_path, say)
    seen = say.of("engine")
    assert [each["name"] for each in seen] == list(engines.NAMES)
    assert all(min(each["milliseconds"].values()) > 0 for each in seen)
    scores = {each["name"]: each["milliseconds"]["1"] * each["milliseconds"]["4"] for each in seen}
    assert scores[engine.name] == pytest.approx(min(scores.values()), rel=0.01)


@pytest.mark.parametrize("name", engines.NAMES)
def test_each_answers_as_the_model_does(net: Path, tmp_path: Path, name: str) -> None:
    engine = chosen(net, tmp_path, Log(), wanted=name)
    assert engine.name == name
    opened = engines.Engine(**engine.facts).open(str(net))
    for seed in range(3):
        mine, theirs = (each.predict(picture(seed)) for each in (load(net), opened))
        assert mine.classes == theirs.classes
        np.testing.assert_allclose(theirs.probabilities, mine.probabilities, rtol=1e-4, atol=1e-6)


def test_an_engine_that_computes_something_else_is_refused(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary = engines._OPENERS["onnxruntime"]

    def wrong(path: Path, threads: int | None) -> InferenceSession:
        opened = ordinary(path, threads)
        return InferenceSession(lambda images: opened.run(images) * np.float32(1.001), opened.strings, opened.runtime)

    monkeypatch.setitem(engines._OPENERS, "onnxruntime", wrong)
    say = Log()
    assert chosen(net, tmp_path, say).name != "onnxruntime"
    (refused,) = say.of("engine_refused")
    assert refused["name"] == "onnxruntime"
    with pytest.raises(ProofFailed, match="onnxruntime is refused"):
        chosen(net, tmp_path, Log(), wanted="onnxruntime")


def test_without_other_runtimes_torch_serves(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def need(what: str, *packages: str) -> None:
        raise InvalidInput(f"{what} needs {packages[0]}, an extra")

    monkeypatch.setattr(engines, "require_package", need)
    assert chosen(net, tmp_path, Log()).name == "torch"
    with pytest.raises(InvalidInput, match="--engine openvino needs"):
        chosen(net, tmp_path, Log(), wanted="openvino")
    with pytest.raises(InvalidInput, match="--engine tpu is none of torch, onnxruntime, openvino"):
        chosen(net, tmp_path, Log(), wanted="tpu")


@pytest.mark.parametrize("inside", [False, True])
def test_an_exported_file_runs_in_its_own_runtime(net: Path, tmp_path: Path, inside: bool) -> None:
    export_model(net, tmp_path / "out", preprocess=inside)
    file = tmp_path / "out" / "model.onnx"
    engine = chosen(file, tmp_path, Log())
    assert engine.name == "onnxruntime"
    mine, theirs = load(net).predict(picture(1)), engine.open(str(file)).predict(picture(1))
    np.testing.assert_allclose(theirs.probabilities, mine.probabilities, rtol=1e-4, atol=1e-6)
    with pytest.raises(InvalidInput, match=r"runs in onnxruntime; leave out --engine torch"):
        chosen(file, tmp_path, Log(), wanted="torch")
