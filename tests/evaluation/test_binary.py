"""Binary tasks from the table to the report: one label, or two classes, with a threshold chosen on validation."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score, roc_curve

import densekit
from densekit.data import load
from densekit.errors import Interrupted, InvalidInput, ProofFailed, UnknownName
from densekit.evaluation.evaluate import config_of, expected_of
from densekit.inference.classifier import Prediction
from densekit.runs import run_folder
from densekit.runs.run_folder import STATE_JSON
from densekit.training.checkpoint import _own_sha256
from densekit.training.trainer import fit
from densekit.weights.redaction import without_paths
from tests.conftest import Command
from tests.data.tables import write_table
from tests.faults.command import state_of
from tests.html_pages import text_of
from tests.narrow import expect_type, not_none

SMALL: dict[str, Any] = {"data.image_size": 16, "data.channels": 1, "batch_size": 16, "plan": "concat"}
WORDS: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 2}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("label"))


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> densekit.Run:
    settings = SMALL | {"data.label_columns": "ill"}
    return densekit.train(f"csv:{table}", out=tmp_path_factory.mktemp("run") / "run", settings=settings, **WORDS)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> densekit.Run:
    """Of two ordinary names."""
    root = tmp_path_factory.mktemp("classes")
    table = write_table(root / "table", ("cat", "dog"), "label")
    return densekit.train(f"csv:{table}", out=root / "run", settings=SMALL, **WORDS)


def answers(run: densekit.Run, table: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a split, by prediction of each file."""
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    found = densekit.load(run.folder).predict_each(table.parent / row["path"] for row in rows)
    truth = np.array([(row.get("ill") or row.get("label")) in ("1", "dog") for row in rows])
    return truth, np.array([float(expect_type(each, Prediction).probabilities[-1]) for each in found])


def test_a_network_of_one_output_answers_the_column(run: densekit.Run) -> None:
    card = densekit.load(run.folder).card
    assert (card.classes, card.task, card.model.num_classes) == (("ill",), "multi-label", 1)
    assert run_folder.recipe_of(run.folder).data.binary == "label"


@pytest.mark.parametrize("name", ["run", "classes"])
def test_metrics_are_scikit_learns_at_the_threshold_of_the_validation(
    name: str, request: pytest.FixtureRequest, command: Command
) -> None:
    run: densekit.Run = request.getfixturevalue(name)
    config = densekit.load(run.folder).card.data
    assert config is not None
    table = Path(config.source.removeprefix("csv:"))
    status, out, _ = command("evaluate", run.folder, "--json")
    result = json.loads(out)
    assert status == 0
    truth, score = answers(run, table, "test")
    taken = score >= result["threshold"]
    assert result["auroc"] == pytest.approx(roc_auc_score(truth, score), abs=1e-9)
    assert result["average_precision"] == pytest.approx(average_precision_score(truth, score), abs=1e-9)
    assert result["sensitivity"] == pytest.approx(recall_score(truth, taken))
    assert result["specificity"] == pytest.approx(recall_score(~truth, ~taken))
    assert result["precision"] == pytest.approx(precision_score(truth, taken, zero_division=np.nan), nan_ok=True)
    for metric in ("auroc", "average_precision", "sensitivity", "specificity", "ece", "loss", "accuracy"):
        low, high = result[f"{metric}_interval"]
        assert low <= result[metric] <= high
    assert result["roc"]["fpr"][0] == 0
    assert len(result["roc"]["fpr"]) == len(result["roc"]["tpr"])
    truth, score = answers(run, table, "val")
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    chosen = score >= result["threshold"]
    assert chosen[truth].mean() - chosen[~truth].mean() == pytest.approx((true - false).max())


def test_two_classes_name_the_positive_one_which_a_setting_changes(classes: densekit.Run) -> None:
    second = classes.evaluate()
    assert (second.positive, second.count) == ("dog", 30)
    first = densekit.evaluate(classes.folder, settings={"data.positive": "cat"})
    assert first.positive == "cat"
    assert first.top1 == second.top1
    assert first.auroc == pytest.approx(second.auroc)
    assert first.threshold == pytest.approx(1 - not_none(second.threshold))
    assert (first.sensitivity, first.specificity) == pytest.approx((second.specificity, second.sensitivity))
    with pytest.raises(UnknownName, match="emu"):
        densekit.evaluate(classes.folder, settings={"data.positive": "emu"})


def test_a_positive_class_of_ten_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="positive=3 is for two classes, and there are 10"):
        densekit.train("digits", out=tmp_path / "run", settings={"data.positive": "3", "data.limit": 50}, **WORDS)


def test_the_terminal_has_intervals_and_cautions_in_80_columns(
    run: densekit.Run, classes: densekit.Run, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for folder, positive in ((run.folder, "ill"), (classes.folder, "dog")):
        status, out, _ = command("evaluate", folder)
        lines = out.splitlines()
        assert status == 0
        assert max(len(line) for line in lines[1:] if not line.startswith("caution") and "no better" not in line) <= 80
        assert any(line.startswith(f"  positive: {positive} from a probability of ") for line in lines)
        assert any(line.split()[:1] == ["sensitivity"] and line.endswith("%]") for line in lines)
        assert f"caution: fewer than 20 positives, so that metrics are uncertain: {positive} 10" in lines
        assert any("8 groups, fewer than 20" in line for line in lines)


def test_a_table_of_predictions_names_the_label_only_where_it_is_there(
    run: densekit.Run, table: Path, command: Command, tmp_path: Path
) -> None:
    command("predict", run.folder, f"csv:{table}", "--csv", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["predicted"], row["predicted_ill"]) for row in rows} == {("ill", "1"), ("", "0")}
    assert all(
        (float(row["probability"]) >= not_none(run.result.threshold)) == (row["predicted"] == "ill") for row in rows
    )


def test_a_wanted_sensitivity_is_reached_on_the_validation(table: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.label_columns": "ill", "threshold": "sensitivity:0.95"}
    run = densekit.train(f"csv:{table}", out=tmp_path / "run", settings=settings, **WORDS)
    truth, score = answers(run, table, "val")
    assert (score >= not_none(run.result.threshold))[truth].mean() >= 0.95
    assert densekit.load(run.folder).card.thresholds == (run.result.threshold,)


def test_another_table_is_evaluated_by_its_own_column_and_values(
    run: densekit.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_table(tmp_path / "other", ("no", "yes"), "diagnosis", count=40)
    text = other.read_text().replace("patient", "person")
    other.write_text("\n".join(f"{line.rpartition(',')[0]}" for line in text.splitlines()) + "\n")
    for i in range(40):  # other pictures than those that it was trained with
        pixels = np.asarray(Image.open(other.parent / f"{i}.png")).copy()
        pixels[0, 0] ^= 1
        Image.fromarray(pixels).save(other.parent / f"{i}.png")
    given = {"data.label_columns": "diagnosis"}
    result = densekit.evaluate(run.folder, f"csv:{other}", split="test", settings=given)
    assert result.positive == "ill"
    assert result.threshold == run.result.threshold
    assert "diagnosis of" in (said := capsys.readouterr().err)
    assert "is compared with ill of" in said
    other.write_text("\n".join(line for line in other.read_text().splitlines() if ",yes," not in line) + "\n")
    healthy = densekit.evaluate(run.folder, f"csv:{other}", split="test", settings=given)
    assert (healthy.auroc, healthy.sensitivity, healthy.sensitivity_interval) == (None, None, None)
    assert healthy.specificity_interval is not None


def without_new_keys(run: Path) -> None:
    """As an older version wrote it."""
    path = run / "config.yaml"
    recipe = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(old_recipe(recipe)))
    for path in (run / "checkpoints").rglob("config.json"):
        card = json.loads(path.read_text())
        path.write_text(json.dumps(card | {"data": old_data(card["data"]), "thresholds": []}))
    for path in (run / "checkpoints").rglob("state.json"):
        state = json.loads(path.read_text())
        state["made_by"]["recipe"] = old_recipe(state["made_by"]["recipe"])
        state["sha256"][STATE_JSON] = _own_sha256(state)
        path.write_text(json.dumps(state))


def old_data(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in ("binary", "positive")}


def old_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != "threshold"} | {"data": old_data(recipe["data"])}


def test_a_run_of_an_older_version_goes_on_with_two_classes_to_the_same_weights(table: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.label_columns": "ill", "data.binary": "classes"}
    whole = densekit.train(f"csv:{table}", out=tmp_path / "whole", settings=settings, **WORDS).folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densekit.training.session.fit", lambda *given, **named: fit(*given, **named | {"until": 3}))
        with pytest.raises(Interrupted):
            densekit.train(f"csv:{table}", out=tmp_path / "old", settings=settings, **WORDS)
    without_new_keys(tmp_path / "old")
    densekit.resume(tmp_path / "old")
    assert state_of(tmp_path / "old") == state_of(whole)
    assert densekit.load(tmp_path / "old").card.classes == ("0", "1")


def test_a_result_and_a_model_of_an_older_version_are_read(table: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.label_columns": "ill", "data.binary": "classes"}
    run = densekit.train(f"csv:{table}", out=tmp_path / "old", settings=settings, **WORDS)
    without_new_keys(run.folder)
    result = densekit.evaluate(run.folder)
    assert (result.positive, result.threshold, result.top1) == ("1", 0.5, run.result.top1)
    kept = json.loads((run.folder / "result.json").read_text())
    names = ("model", "data", "split", "count", "top1", "top5", "loss", "ece", "per_class", "confusion", "reliability")
    (run.folder / "result.json").write_text(json.dumps({key: kept[key] for key in (*names, "seconds", "skipped")}))
    again = run_folder.result_of(run.folder)
    assert again is not None
    assert (again.top1, again.auroc, again.cautions) == (run.result.top1, None, [])


def test_resuming_gives_the_same_threshold_and_intervals(table: Path, tmp_path: Path) -> None:
    settings = SMALL | {"data.label_columns": "ill"}
    whole = densekit.train(f"csv:{table}", out=tmp_path / "whole", settings=settings, **WORDS)
    cut = densekit.train(f"csv:{table}", out=tmp_path / "cut", settings=settings, **WORDS)
    (cut.folder / "result.json").unlink()
    again = densekit.resume(cut.folder).result
    assert again.threshold == whole.result.threshold
    assert again.intervals() == whole.result.intervals()
    shutil.copytree(cut.folder, tmp_path / "other")
    (tmp_path / "other" / "result.json").unlink()
    assert densekit.resume(tmp_path / "other", settings={"threshold": "f1"}).result.top1 is None
    with pytest.raises(ProofFailed, match="the classes have changed"):
        densekit.resume(cut.folder, epochs=3, settings={"data.binary": "classes"})


def test_the_report_shows_curves_threshold_and_intervals(run: densekit.Run, classes: densekit.Run) -> None:
    for each, positive in ((run, "ill"), (classes, "dog")):
        result = each.result
        text = text_of(each.report)
        assert {"roc", "precision_recall"} <= {path.stem for path in (each.folder / "plots").iterdir()}
        assert f"Binary metrics: {positive}" in text
        assert f"{result.threshold:.4g} on" in text
        assert "sensitivity + specificity is highest (Youden) on the validation images" in text
        low, high = not_none(result.sensitivity_interval)
        assert f"sensitivity (recall) {result.sensitivity:.1%} {low:.1%} to {high:.1%}" in text
        assert "Fewer than 20 positives" in text


def test_prediction_says_whether_it_is_there(run: densekit.Run, table: Path, command: Command) -> None:
    _, out, _ = command("predict", run.folder, table.parent / "0.png", "--json")
    (row,) = json.loads(out)["top"]
    assert row["class"] == "ill"
    assert row["present"] == (row["probability"] >= not_none(run.result.threshold))


def test_the_check_of_a_table_reads_it_as_training_does(table: Path, command: Command) -> None:
    _, out, _ = command("data", "check", f"csv:{table}", "--set", "data.label_columns=ill")
    assert "1 class" in out


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> densekit.Run:
    """Trained with the value as present that elsewhere says absent."""
    root = tmp_path_factory.mktemp("turned")
    table = write_table(root / "table", ("abnormal", "normal"))
    settings = SMALL | {"data.label_columns": "ill", "data.positive": "normal"}
    return densekit.train(f"csv:{table}", out=root / "run", settings=settings, **WORDS)


@pytest.mark.parametrize("public", [False, True])
def test_the_value_that_was_present_in_training_is_present_in_another_table(
    public: bool, turned: densekit.Run, tmp_path: Path
) -> None:
    """Also for a card without folders, as an exported file has."""
    card = densekit.load(turned.folder).card
    card = without_paths(card)[0] if public else card

    def present(words: tuple[str, str], rows: slice = slice(None), **given: Any) -> set[tuple[str, float]]:
        table = write_table(tmp_path, words, count=12)
        head, *body = table.read_text().splitlines()
        body = [line.replace(",val,", ",test,").replace(",train,", ",test,") for line in body][rows]
        table.write_text("\n".join([head.replace("patient", "scan"), *body]))
        config = config_of(f"csv:{table}", card.data).model_copy(update=given)
        images = load(config, Path(), expected=expected_of(card, config.source)).splits["test"]
        cells = {line.split(",")[0]: line.split(",")[1] for line in body}
        return {
            (cells[name], float(label)) for name, label in zip(images.names(), images.labels.flatten(), strict=True)
        }

    assert present(("abnormal", "normal")) == {("normal", 1), ("abnormal", 0)}
    assert present(("Abnormal", "Normal")) == {("Normal", 1), ("Abnormal", 0)}
    assert present(("abnormal", "normal"), slice(1, 3)) == {("abnormal", 0)}
    assert present(("abnormal", "normal"), slice(0, 1)) == {("normal", 1)}
    with pytest.raises(InvalidInput, match=r"'normal' says present .* but ill of .*t\.csv has 0 and 1; set data\.pos"):
        present(("0", "1"))
    assert present(("0", "1"), positive="1") == {("1", 1), ("0", 0)}


def test_own_data_are_not_read_the_other_way_round(run: densekit.Run, turned: densekit.Run) -> None:
    assert turned.evaluate().auroc == turned.result.auroc
    with pytest.raises(InvalidInput, match=r"positive=abnormal is not how .*with data\.positive=normal.* leave it"):
        densekit.evaluate(turned.folder, settings={"data.positive": "abnormal"})
    with pytest.raises(InvalidInput, match=r"data\.positive=0 is not how these data were read for training"):
        densekit.evaluate(run.folder, settings={"data.positive": "0"})
