"""The verbs on a small run."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.test_errors import Command, densekit

__all__ = ["densekit"]


def test_models_lists_the_published_counts(densekit: Command) -> None:
    status, out, _ = densekit("models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0
    assert rows["densenet_bc_100_12"]["parameters"] == 769_162
    assert rows["densenet121"]["macs"] == 2_834_161_664
    assert rows["densenet121"]["input"] == [3, 224, 224]
    assert rows["densenet121"]["macs_pool_first"] < rows["densenet121"]["macs"]


def test_train_writes_what_the_contract_names(tiny_run: Path) -> None:
    files = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert files >= {
        "config.yaml",
        "env.json",
        "split.csv",
        "metrics.jsonl",
        "metrics.csv",
        "report.html",
        "result.json",
        "checkpoints/last/config.json",
        "checkpoints/last/model.safetensors",
        "checkpoints/last/state.safetensors",
        "checkpoints/last/state.json",
    }


def test_evaluate_prints_json_alone_and_agrees_with_training(densekit: Command, tiny_run: Path) -> None:
    status, out, _ = densekit("evaluate", tiny_run, "--json")
    result = json.loads(out)
    trained = json.loads((tiny_run / "result.json").read_text())
    assert status == 0
    assert {"model", "data", "split", "count", "top1", "top5", "loss", "ece", "per_class"} <= set(result)
    assert [result[key] for key in ("split", "count", "top1")] == [trained[key] for key in ("split", "count", "top1")]
    assert result["loss"] == pytest.approx(trained["loss"], rel=1e-5)


def test_predict_prints_one_json_object_a_line(densekit: Command, tiny_run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("L", (20, 20), 10).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no")
    status, out, _ = densekit("predict", tiny_run, tmp_path / "*.png", "--json", "--top", "2")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 3
    assert [Path(line["path"]).name for line in lines] == ["a.png", "b.png", "bad.png"]
    assert len(lines[0]["top"]) == 2
    assert set(lines[0]["top"][0]) == {"class", "index", "probability"}
    assert lines[2]["error"]["code"] == "not_an_image"


def test_resuming_a_finished_run_changes_no_weight(densekit: Command, tiny_run: Path) -> None:
    weights = (tiny_run / "checkpoints/last/model.safetensors").read_bytes()
    status, _, err = densekit("resume", tiny_run)
    assert status == 0
    assert "finished" in err
    assert (tiny_run / "checkpoints/last/model.safetensors").read_bytes() == weights
