"""Early stopping: training ends when the validation stops improving, at the same epoch however often it is resumed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import densekit
from densekit import Run, resume, train
from densekit.config import Recipe
from densekit.errors import InvalidInput
from densekit.runs import run_folder
from densekit.runs.run_folder import STATE_JSON
from densekit.training import checkpoint
from densekit.training.compose import compose
from densekit.training.early_stopping import early_stop
from densekit.training.setup import prepare
from densekit.training.state import Progress
from tests.faults.command import state_of, train_until

# A rate at which the validation loss soon rises again.
SETTINGS = {
    "data.limit": 120, "batch_size": 40, "ema.decay": 0, "optimizer.lr": 0.5, "early_stopping.patience": 2,
    "plan": "concat",
}  # fmt: skip
WORDS: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 30, "settings": SETTINGS}


def recipe(**settings: object) -> Recipe:
    given = {f"early_stopping.{key}": value for key, value in settings.items()}
    return compose("digits", model="densenet_bc_10_4", epochs=50, settings=given)


def progress(losses: list[float], scores: list[float] | None = None) -> Progress:
    return Progress(epoch=len(losses), val_losses=losses, val_scores=scores or [0.0] * len(losses))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("digits", out=tmp_path_factory.mktemp("early") / "run", **WORDS)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 6), st.sampled_from([0.0, 0.5]))
def test_it_stops_at_the_first_epoch_that_ends_a_wait(losses: list[float], patience: int, delta: float) -> None:
    """The reference keeps a counter, as Keras and Lightning do."""
    best, waited, expected = float("inf"), 0, None
    for epoch, loss in enumerate(losses, start=1):
        waited = 0 if loss < best - delta else waited + 1
        best = min(best, loss) if waited == 0 else best
        if waited == patience:
            expected = epoch
            break
    chosen = recipe(patience=patience, min_delta=delta)
    ends = (n for n in range(1, len(losses) + 1) if early_stop(chosen, progress(losses[:n]), "top1"))
    assert next(ends, None) == expected


def test_a_score_improves_upwards() -> None:
    chosen = recipe(patience=2, metric="score")
    falling, rising = [3.0, 2.0, 1.0], [0.1, 0.2, 0.3]
    assert early_stop(chosen, progress(falling, rising), "top1") is None
    found = early_stop(chosen, progress(falling, rising[::-1]), "top1")
    assert found is not None
    assert (found.metric, found.best_epoch, found.best) == ("top1", 1, 0.3)
    assert "validation accuracy had not improved for 2 epochs, since epoch 1 (0.3)" in found.words()


def test_it_is_off_unless_asked_for() -> None:
    assert early_stop(recipe(), progress([1.0] * 40), "top1") is None


def test_the_last_epoch_of_the_recipe_is_no_early_stop() -> None:
    assert early_stop(recipe(patience=1), progress([1.0] * 50), "top1") is None


def test_the_result_events_and_report_say_when_it_stopped(stopped: Run) -> None:
    told = json.loads((stopped.folder / "result.json").read_text())["early_stop"]
    rows = run_folder.metrics(stopped.folder)
    losses = [row["val_loss"] for row in rows]
    assert stopped.result.early_stop == told
    assert told["epoch"] == len(rows) < 30
    assert told["epoch"] - told["best_epoch"] == 2
    assert told["best"] == losses[told["best_epoch"] - 1] == min(losses)
    events = [json.loads(line) for line in (stopped.folder / "events.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events if event["event"] == "early stop"] == [told["epoch"]]
    page = stopped.report.read_text()
    assert f"stopped early after {told['epoch']} of 30 epochs" in page
    assert f"since epoch {told['best_epoch']}" in page


def test_a_resumed_run_stops_at_the_same_epoch_with_the_same_bits(stopped: Run, tmp_path: Path) -> None:
    """Also from within the last epoch of the wait."""
    steps = run_folder.metrics(stopped.folder)[-1]["step"]
    train_until(steps - 1, "digits", out=tmp_path / "run", **WORDS)
    resume(tmp_path / "run")
    assert state_of(tmp_path / "run") == state_of(stopped.folder)


def test_a_finished_run_is_returned_as_it_is(stopped: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = state_of(stopped.folder)
    assert resume(stopped.folder).result == stopped.result
    assert state_of(stopped.folder) == before
    assert "--set early_stopping.patience=12" in capsys.readouterr().err


def test_more_patience_goes_on_as_if_it_had_been_there_from_the_start(tmp_path: Path) -> None:
    longer = WORDS | {"settings": SETTINGS | {"early_stopping.patience": 4}}
    whole = train("digits", out=tmp_path / "whole", **longer)
    run = train("digits", out=tmp_path / "run", **WORDS)
    assert run.result.early_stop is not None
    assert len(run_folder.metrics(run.folder)) < len(run_folder.metrics(whole.folder))
    resume(run.folder, settings={"early_stopping.patience": 4})
    assert state_of(run.folder) == state_of(whole.folder)


def test_a_run_of_an_older_version_resumes_to_the_same_bits(stopped: Run, tmp_path: Path) -> None:
    """Neither its config.yaml nor its checkpoint knows of early stopping, balanced sampling or validations."""
    words = WORDS | {"epochs": 3, "settings": SETTINGS | {"early_stopping.patience": None}}
    whole = train("digits", out=tmp_path / "whole", **words)
    train_until(5, "digits", out=tmp_path / "run", **words)
    older = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    file = tmp_path / "run" / "checkpoints" / "last" / STATE_JSON
    document = json.loads(file.read_text())
    for recipe_then in (older, document["made_by"]["recipe"]):
        del recipe_then["early_stopping"], recipe_then["sampling"]
    del document["progress"]["val_losses"], document["progress"]["val_scores"]
    document["sha256"][STATE_JSON] = checkpoint._own_sha256(document)
    file.write_text(json.dumps(document))
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(older))
    resume(tmp_path / "run")
    assert state_of(tmp_path / "run") == state_of(whole.folder)


@pytest.mark.parametrize("resumed", [False, True])
def test_without_validation_images_it_is_refused(resumed: bool, tmp_path: Path) -> None:
    final = {"data.protocol": "final", "early_stopping.patience": 3}
    given = compose("digits", model="densenet_bc_10_4", settings=final)
    with pytest.raises(InvalidInput, match=r"early_stopping.patience=3 needs validation images"):
        prepare(given, tmp_path, start=not resumed)


def test_results_of_older_runs_load_without_it(stopped: Run, tmp_path: Path) -> None:
    document = dataclasses.asdict(stopped.result)
    del document["early_stop"]
    (tmp_path / "result.json").write_text(json.dumps(document))
    found = run_folder.result_of(tmp_path)
    assert isinstance(found, densekit.Result)
    assert found.early_stop is None
