"""Trackers show what metrics.jsonl holds, go on with the same run after a stop, and cannot harm training."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from densekit import resume, train
from densekit.config import with_settings
from densekit.errors import InvalidInput
from densekit.metrics.single_label import Result
from densekit.runs import run_folder, tracking
from densekit.runs.trackers import TRACKERS
from densekit.training import resume_check, resume_test
from tests.conftest import Command
from tests.narrow import expect_type

SETTINGS: dict[str, Any] = {"data.limit": 60, "batch_size": 30}


def run_of(out: Path, *, epochs: int = 2, **settings: Any) -> Path:
    return train("digits", model="densenet_bc_10_4", epochs=epochs, out=out, settings=SETTINGS | settings).folder


class Heard:
    """A tracker that writes down what it is told; `fails` at one of its methods, or waits there for an `answer`."""

    log: list[tuple[Any, ...]]
    answer = threading.Event()
    fails = ""
    waits = ""

    def _hear(self, what: str, *facts: Any) -> None:
        self.log.append((what, *facts))
        if what == self.waits:
            self.answer.wait(60)
        if what == self.fails:
            raise OSError("the network\nis down")

    def start(self, run: Path, recipe: Any, known: str | None, epochs: int) -> str:
        self._hear("start", known, epochs)
        return known or "id-1"

    def row(self, row: Any) -> None:
        self._hear("row", row["epoch"])

    def result(self, result: Any, report: Path) -> None:
        self._hear("result", result.split, report.exists())

    def close(self, *, finished: bool) -> None:
        self._hear("close", finished)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> type[Heard]:
    kind = type("Fake", (Heard,), {"log": []})
    monkeypatch.setitem(TRACKERS, "tensorboard", kind)
    return kind


def test_a_tracker_hears_the_epochs_the_result_and_the_end(heard: type[Heard], tmp_path: Path) -> None:
    run_of(tmp_path / "run", trackers="tensorboard")
    assert heard.log == [
        ("start", None, 0), ("row", 1), ("row", 2), ("result", "test", True), ("close", True)
    ]  # fmt: skip
    assert json.loads((tmp_path / "run" / tracking.FILE).read_text()) == {"tensorboard": {"id": "id-1", "epoch": 2}}


def test_a_resumed_run_is_the_same_run_there(heard: type[Heard], tmp_path: Path) -> None:
    run_of(tmp_path / "run", trackers=["tensorboard"])
    heard.log.clear()
    resume(tmp_path / "run", epochs=3)
    assert heard.log[:2] == [("start", "id-1", 2), ("row", 3)]


def test_a_tracker_that_joins_later_hears_what_was_before(heard: type[Heard], tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    resume(run, epochs=3, settings={"trackers": ["tensorboard"]})
    assert heard.log[:4] == [("start", None, 0), ("row", 1), ("row", 2), ("row", 3)]


@pytest.mark.parametrize("method", ["start", "row", "result", "close"])
def test_a_tracker_that_fails_is_named_once_and_training_goes_on(
    heard: type[Heard], densekit: Command, method: str
) -> None:
    heard.fails = method
    arguments = (
        "--model",
        "densenet_bc_10_4",
        "--epochs",
        2,
        "--set",
        "data.limit=60",
        "--set",
        "trackers=tensorboard",
    )
    status, out, err = densekit("train", "digits", "--out", "run", *arguments)
    assert status == 0
    assert "report: run/report.html" in out
    assert err.count("tensorboard fails and is left alone, training goes on: OSError: the network is down") == 1
    assert len(run_folder.metrics(Path("run"))) == 2


def test_what_a_failed_tracker_missed_it_hears_later(heard: type[Heard], tmp_path: Path) -> None:
    heard.fails = "row"
    run = run_of(tmp_path / "run", trackers="tensorboard")
    heard.fails = ""
    heard.log.clear()
    resume(run, epochs=3)
    assert heard.log[:4] == [("start", "id-1", 0), ("row", 1), ("row", 2), ("row", 3)]


def test_a_tracker_that_does_not_answer_delays_the_end_by_a_limit(
    heard: type[Heard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_PATIENCE", 0.5)
    heard.waits = "row"
    run = run_of(tmp_path / "run", trackers="tensorboard")
    assert [what for what, *_ in heard.log] == ["start", "row"]  # it is not back yet
    assert run_folder.result_of(run) is not None
    heard.answer.set()
    for thread in threading.enumerate():
        if thread.name == "trackers":
            thread.join()


def test_a_missing_package_is_2_before_anything_is_done(
    densekit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    status, _, err = densekit("train", "digits", "--out", "run", "--set", "trackers=[wandb]")
    assert (status, err.count("\n")) == (2, 1)
    assert "pip install 'densekit[wandb]'" in err
    assert not (tmp_path / "run").exists()


def test_a_folder_called_wandb_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow_of_a_run").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidInput, match="not installed"):
        tracking.require(["mlflow_of_a_run"])


def test_trackers_do_not_make_it_another_run(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", epochs=1)
    then = json.loads((run / "checkpoints" / "last" / "state.json").read_text())["made_by"]
    now = then | {"recipe": then["recipe"] | {"trackers": ["mlflow"]}}
    assert resume_check.changes(then, now) == resume_check.Changes((), (), (), ())


def test_a_rehearsal_is_not_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run", epochs=1)
    run_folder.write_recipe(run, with_settings(run_folder.recipe_of(run), {"trackers": ["mlflow"]}))
    copies = []

    def start(folder: Path, *_: object) -> None:
        copies.append(run_folder.recipe_of(folder))
        raise InterruptedError

    monkeypatch.setattr(resume_test, "_start", start)
    with pytest.raises(InterruptedError):
        resume_test.run_resume_test(run, say=lambda _: None)
    assert [copy.trackers for copy in copies] == [()]


def test_without_trackers_there_is_no_thread(tmp_path: Path) -> None:
    run_of(tmp_path / "run", epochs=1)
    assert not [thread for thread in threading.enumerate() if thread.name == "trackers"]
    assert not (tmp_path / "run" / tracking.FILE).exists()


def test_tensorboard_reads_the_metrics_of_the_run(tmp_path: Path) -> None:
    """Also after it went on: each epoch once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_of(tmp_path / "run", trackers="tensorboard")
    resume(run, epochs=3)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    rows = run_folder.metrics(run)
    shown = [(event.step, event.value) for event in events.Scalars("loss/val")]
    assert shown == [(row["epoch"], pytest.approx(row["val_loss"], rel=1e-6)) for row in rows]
    assert len(rows) == 3
    result = expect_type(run_folder.result_of(run), Result)
    assert events.Scalars("result/test_top1")[-1].value == pytest.approx(result.top1)
    assert b"densenet_bc_10_4" in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what MLflow and SQLAlchemy have to say to each other
def test_mlflow_reads_the_metrics_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    run = run_of(tmp_path / "run", trackers="mlflow")
    resume(run, epochs=3)
    client = mlflow.MlflowClient()
    (experiment,) = (each for each in client.search_experiments() if each.name == "densekit")
    (shown,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(shown.info.run_id, "val_loss")
    assert [(m.step, m.value) for m in history] == [(row["epoch"], row["val_loss"]) for row in run_folder.metrics(run)]
    assert shown.info.status == "FINISHED"
    assert shown.info.run_name == "run"
    assert shown.data.params["model.name"] == "densenet_bc_10_4"
    assert shown.data.metrics["test_top1"] == expect_type(run_folder.result_of(run), Result).top1
    assert [file.path for file in client.list_artifacts(shown.info.run_id)] == ["report.html"]


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_the_run_to_be_sent_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: a folder a process, of one run by its id; `wandb sync` joins them."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = run_of(tmp_path / "run", trackers="wandb")
    resume(run, epochs=3)
    known = json.loads((run / tracking.FILE).read_text())["wandb"]
    assert known["epoch"] == 3
    folders = sorted((run / "wandb").glob(f"offline-run-*-{known['id']}"))
    assert len(folders) == 2
    content = b"".join(path.read_bytes() for folder in folders for path in folder.glob("*.wandb"))
    assert b"val_loss" in content
    assert b"densenet_bc_10_4" in content
    assert list(folders[0].rglob("report.html"))
