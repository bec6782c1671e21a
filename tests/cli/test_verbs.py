"""The verbs on a small run."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densekit import Run, train
from densekit.runs import run_folder
from tests.conftest import Command, write_photos


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


def test_predict_reads_pictures_in_shards_where_they_are(densekit: Command, tiny_run: Path, tmp_path: Path) -> None:
    """Labelled or not; what it says of them is what it says of the files."""
    random = np.random.default_rng(0)
    for shard in ("s-0.tar", "s-1.tar"):
        with tarfile.open(tmp_path / shard, "w") as tar:
            for name in ("a", "b"):
                file = tmp_path / f"{shard[:3]}{name}.png"
                Image.fromarray(random.integers(0, 100, (8, 8), dtype=np.uint8)).save(file)
                tar.add(file, f"in/{file.name}")
            (tmp_path / "note.txt").write_text("no picture")
            tar.add(tmp_path / "note.txt", "note.txt")
    _, files, _ = densekit("predict", tiny_run, tmp_path / "s-*.png", "--json")
    status, shards, err = densekit("predict", tiny_run, f"wds:{tmp_path}/s-{{0..1}}.tar", "--json")
    assert (status, err) == (0, "")
    told, expected = ([json.loads(line) for line in out.splitlines()] for out in (shards, files))
    assert [row["path"] for row in told] == [
        f"{tmp_path}/{shard}.tar/in/{shard}{name}.png" for shard in ("s-0", "s-1") for name in "ab"
    ]
    assert [row["top"] for row in told] == [row["top"] for row in expected]


def test_predict_names_a_bad_picture_in_a_shard_and_goes_on(densekit: Command, tiny_run: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 10).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_text("no")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            tar.add(tmp_path / name, name)
    status, out, err = densekit("predict", tiny_run, f"wds:{tmp_path}/s.tar")
    assert status == 3
    assert err.startswith(f"densekit: {tmp_path}/s.tar/a.png: ")
    assert out.startswith(f"{tmp_path}/s.tar/b.png  ")
    with tarfile.open(tmp_path / "empty.tar", "w") as tar:
        tar.add(tmp_path / "s.tar", "inner.tar")
    status, _, err = densekit("predict", tiny_run, f"wds:{tmp_path}/empty.tar")
    assert (status, err.count("\n")) == (3, 1)
    assert "no pictures in wds:" in err


def test_evaluate_and_predict_know_several_labels(
    densekit: Command, xray_run: Run, xrays: Path, tmp_path: Path
) -> None:
    status, out, _ = densekit("evaluate", xray_run.folder, "--json")
    result = json.loads(out)
    trained = json.loads((xray_run.folder / "result.json").read_text())
    assert status == 0
    assert {"model", "data", "split", "count", "top1", "top5", "loss", "ece", "per_class"} <= set(result)
    assert result["top1"] is result["top5"] is None
    assert (result["count"], result["auroc"]) == (trained["count"], pytest.approx(trained["auroc"], abs=1e-6))
    metrics = {"auroc", "average_precision", "sensitivity", "specificity", "precision", "f1", "accuracy"}
    metrics |= {"balanced_accuracy"}
    names = {"class", "count", "known", "ap", "threshold", "recall"} | metrics
    assert all(set(row) == names | {f"{name}_interval" for name in metrics} for row in result["per_class"])
    assert all(result[f"{name}_interval"][0] <= result[name] <= result[f"{name}_interval"][1] for name in metrics)
    status, out, _ = densekit("evaluate", xray_run.folder)
    assert f"AUROC {result['auroc']:.4f}" in out
    pictures = sorted((xrays.parent / "images").iterdir())[:3]
    _, out, _ = densekit("predict", xray_run.folder, *pictures, "--json", "--top", 4)
    rows = [row for line in out.splitlines() for row in json.loads(line)["top"]]
    assert set(rows[0]) == {"class", "index", "probability", "present"}
    thresholds = {row["class"]: row["threshold"] for row in trained["per_class"]}
    assert all(row["present"] == (row["probability"] >= thresholds[row["class"]]) for row in rows)
    _, out, _ = densekit("predict", xray_run.folder, *pictures, "--top", 4)
    assert out.count(" yes") == sum(row["present"] for row in rows)
    assert out.count(" no") == 12 - out.count(" yes")


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Two splits of two classes; one image of each is cut in its pixels, and one of test is no image."""
    for split in ("train", "test"):
        root = write_photos(tmp_path / "photos" / split)
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "cat" / "cut.jpg")  # the same each time, or its hash might put it in val
        whole = (root / "cat" / "cut.jpg").read_bytes()
        (root / "cat" / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (tmp_path / "photos" / "test" / "dog" / "letter.jpg").write_text("dear reader")
    return tmp_path / "photos"


def test_evaluation_stops_at_a_bad_file(densekit: Command, photo_run: Path, spoilt: Path) -> None:
    status, out, err = densekit("evaluate", photo_run, spoilt)
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert "data.max_bad=" in err


def test_evaluation_skips_and_lists_as_many_bad_files_as_allowed(
    densekit: Command, photo_run: Path, spoilt: Path
) -> None:
    """And only those of the split that is measured."""
    arguments = ("evaluate", photo_run, spoilt, "--set", "data.max_bad=3")
    status, out, _ = densekit(*arguments, "--json")
    result = json.loads(out)
    assert status == 0
    assert result["count"] == 24
    assert sorted(Path(row["path"]).name for row in result["skipped"]) == ["cut.jpg", "letter.jpg"]
    assert {row["code"] for row in result["skipped"]} == {"truncated", "not_an_image"}
    _, out, _ = densekit(*arguments)
    assert out.count("skipped: ") == 2
    _, out, _ = densekit(*arguments, "--split", "train", "--json")
    assert [Path(row["path"]).name for row in json.loads(out)["skipped"]] == ["cut.jpg"]


def test_evaluation_allows_no_more_bad_files_than_that(densekit: Command, photo_run: Path, spoilt: Path) -> None:
    status, out, err = densekit("evaluate", photo_run, spoilt, "--set", "data.max_bad=1")
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert "more than data.max_bad=1 bad files" in err


def test_a_longer_run_is_recorded_as_one(densekit: Command, tmp_path: Path) -> None:
    """And keeps what it started from, of which it no longer needs the weights."""
    settings = {"data.limit": 100}
    train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "first", settings=settings)
    init = str(tmp_path / "first")
    train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", init=init, settings=settings)
    shutil.rmtree(init)
    status, _, _ = densekit("resume", "run", "--epochs", 2)
    recipe = run_folder.recipe_of(tmp_path / "run")
    assert status == 0
    assert (recipe.epochs, recipe.init) == (2, init)
    assert len(run_folder.metrics(tmp_path / "run")) == 2
    assert densekit("resume", "run")[0] == 0  # finished, by its own record
    assert len(run_folder.metrics(tmp_path / "run")) == 2


def test_a_new_head_is_announced(densekit: Command, tiny_run: Path) -> None:
    arguments = ("--model", "densenet_bc_10_8", "--epochs", 1, "--init", tiny_run)
    _, _, err = densekit("train", "synthetic:8x8x1:3", *arguments)
    words = " ".join(err.split())
    assert f"start {tiny_run} new head classifier.weight, classifier.bias" in words
    _, _, err = densekit("train", "digits", "--set", "data.limit=100", *arguments)
    assert f"start {tiny_run}, head included" in " ".join(err.split())


def test_resuming_a_finished_run_changes_no_weight(densekit: Command, tiny_run: Path) -> None:
    weights = (tiny_run / "checkpoints/last/model.safetensors").read_bytes()
    status, _, err = densekit("resume", tiny_run)
    assert status == 0
    assert "finished" in err
    assert (tiny_run / "checkpoints/last/model.safetensors").read_bytes() == weights
