"""evaluate(out=...): a page, the metrics, and a row an image, for every kind of data and names of any kind."""

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

import densekit
from densekit import Run
from densekit.csv_cells import path_of, text_of
from densekit.errors import BadData, InvalidInput
from densekit.inference.classifier import Prediction
from tests.conftest import spoil, write_photos
from tests.html_pages import text_of as words_of
from tests.narrow import expect_type, not_none

SMALL: dict[str, Any] = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
HOSTILE = '=1+<i>x, "quoted"'
ODD = ('a,"b"\nc.png', "=1+1.png", r"\xb9.png", os.fsdecode(b"\xb9.png"), "é '.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    photos = write_photos(root / "photos", classes=(HOSTILE, "dog"), count=12)
    return densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=root / "run", settings=SMALL).folder


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Photos that the run has not seen, in two splits, with odd names."""
    root = tmp_path / "new"
    for split, size in (("train", 52), ("Validation", 56)):
        write_photos(root / split, classes=(HOSTILE, "dog"), count=len(ODD), size=size)
        for i, name in enumerate(ODD):
            (root / split / "dog" / f"{i}.png").rename(root / split / "dog" / name)
    return root


def rows_in(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def metrics_in(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())


def test_rows_name_each_image_by_its_path_below_the_folder(run: Path, fresh: Path, tmp_path: Path) -> None:
    result = densekit.evaluate(run, fresh, out=tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    files = set((fresh / "Validation").rglob("*.png"))
    assert {fresh / path_of(row["path"]) for row in rows} == files
    assert len(rows) == len(files) == result.count
    assert {row["split"] for row in rows} == {"val"}
    assert all(text_of(row["label"]) == (fresh / path_of(row["path"])).parent.name for row in rows)


def test_rows_of_all_images_name_the_split_of_each(run: Path, fresh: Path, tmp_path: Path) -> None:
    densekit.evaluate(run, fresh, split="all", out=tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    assert {(row["split"], fresh / path_of(row["path"])) for row in rows} == {
        *(("train", path) for path in (fresh / "train").rglob("*.png")),
        *(("val", path) for path in (fresh / "Validation").rglob("*.png")),
    }
    # Of its own photos, which training has divided: as split.csv says.
    densekit.evaluate(run, split="all", out=tmp_path / "own")
    with (run / "split.csv").open(newline="") as file:
        expected = {(row["image"], row["split"]) for row in csv.DictReader(file)}
    assert {(path_of(row["path"]).removeprefix("./"), row["split"]) for row in rows_in(tmp_path / "own")} == expected
    # A folder without splits.
    densekit.evaluate(run, fresh / "train", split="all", out=tmp_path / "whole")
    assert {row["split"] for row in rows_in(tmp_path / "whole")} == {"all"}


def test_rows_of_all_images_know_their_split_though_some_were_left_out(run: Path, fresh: Path, tmp_path: Path) -> None:
    with (run / "split.csv").open(newline="") as file:
        used = next(row["image"] for row in csv.DictReader(file) if (row["split"], row["class"]) == ("train", "dog"))
    shutil.copy(run.parent / "photos" / used, fresh / "train" / "dog" / "0used.png")
    densekit.evaluate(run, fresh, split="all", out=tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    assert len(rows) == 4 * len(ODD)
    assert all(row["split"] == {"t": "train", "V": "val"}[path_of(row["path"])[0]] for row in rows)


def test_all_images_of_a_table_keep_their_paths_and_columns(run: Path, fresh: Path, tmp_path: Path) -> None:
    with (fresh / "new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split", "scanner"))
        for i in range(4):
            writer.writerow((f"train/{HOSTILE}/{i}.png", HOSTILE, ("test", "val")[i % 2], f"s{i}"))
    densekit.evaluate(run, f"csv:{fresh}/new.csv", split="all", out=tmp_path / "out")
    found = {(path_of(row["path"]), row["split"], row["scanner"]) for row in rows_in(tmp_path / "out")}
    assert found == {(f"train/{HOSTILE}/{i}.png", ("test", "val")[i % 2], f"s{i}") for i in range(4)}


def test_rows_hold_what_the_model_predicts(run: Path, fresh: Path, tmp_path: Path) -> None:
    """And enough of it to compute every metric again."""
    result = densekit.evaluate(run, fresh, out=tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    classifier = densekit.load(run)
    expected = classifier.predict_each([fresh / path_of(row["path"]) for row in rows])
    columns = [f"probability_{name}" for name in classifier.classes]
    scores = np.array([[float(row[column]) for column in columns] for row in rows])
    np.testing.assert_allclose(
        scores, np.array([expect_type(each, Prediction).probabilities for each in expected]), atol=2e-6
    )
    labels = [classifier.classes.index(text_of(row["label"])) for row in rows]
    assert [text_of(row["predicted"]) for row in rows] == [classifier.classes[i] for i in scores.argmax(1)]
    assert [row["correct"] for row in rows] == [str(int(row["label"] == row["predicted"])) for row in rows]
    assert np.mean(scores.argmax(1) == labels) == result.top1
    assert log_loss(labels, scores, labels=[0, 1]) == pytest.approx(result.loss, rel=1e-5)


def test_metrics_are_what_the_command_prints(
    run: Path, fresh: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from densekit.cli.main import main

    words = ["densekit", "evaluate", run, fresh, "--json", "--out", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capfd.readouterr().out == (tmp_path / "out" / "metrics.json").read_text()
    assert sorted(os.listdir(tmp_path / "out")) == ["metrics.json", "predictions.csv", "report.html"]


def test_page_holds_the_numbers_and_fetches_nothing(run: Path, fresh: Path, tmp_path: Path) -> None:
    result = densekit.evaluate(run, fresh, out=tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    text = words_of(page)
    assert "evaluated on new" in text
    assert f"{100 * not_none(result.top1):.1f}% accuracy (top-1)" in text
    assert f"{result.count} validation images" in text
    assert HOSTILE in text  # as text: it would not be there as an element
    content = page.read_text()
    assert "<i>" not in content
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', content)
    wrong = round(result.count * (1 - not_none(result.top1)))
    assert content.count("<figure>") == min(wrong, 16)


def test_skipped_files_are_on_the_page_and_in_no_row(run: Path, fresh: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(fresh / "Validation" / "dog" / "cut.png")
    spoil(fresh / "Validation" / "dog" / "cut.png")
    result = densekit.evaluate(run, fresh, settings={"data.max_bad": 1}, out=tmp_path / "out")
    assert result.count == len(rows_in(tmp_path / "out")) == 10
    assert not any("cut.png" in row["path"] for row in rows_in(tmp_path / "out"))
    assert "cut.png truncated" in words_of(tmp_path / "out" / "report.html")
    assert metrics_in(tmp_path / "out")["skipped"][0]["code"] == "truncated"


def test_a_table_keeps_its_paths_and_its_other_columns(run: Path, fresh: Path, tmp_path: Path) -> None:
    """A column that is called like one of ours gets another name; cells are copied to the letter."""
    table = tmp_path / "tables" / "new.csv"
    table.parent.mkdir()
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Image", "Label", "Patient ID", "note", "predicted"))
        for i in range(4):
            writer.writerow(
                (
                    f"train/dog/{ODD[i % 3]}" if i < 3 else f"train/{HOSTILE}/0.png",
                    "dog" if i < 3 else HOSTILE,
                    f"p{i}",
                    ' =1, "x"\n ',
                    i,
                )
            )
    densekit.evaluate(run, f"csv:{table}", settings={"data.image_root": str(fresh)}, out=tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    assert [path_of(row["path"]) for row in rows] == [
        *(f"train/dog/{name}" for name in ODD[:3]),
        f"train/{HOSTILE}/0.png",
    ]
    assert [row["Patient ID"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert {row["note"] for row in rows} == {' =1, "x"\n '}
    assert [row["table_predicted"] for row in rows] == list("0123")
    assert list(rows[0])[:5] == ["path", "split", "label", "predicted", "correct"]
    assert "Image" not in rows[0]
    assert "Label" not in rows[0]


def test_a_table_keeps_its_other_columns_where_the_labels_are_found_by_the_model(
    run: Path, fresh: Path, tmp_path: Path
) -> None:
    """No column is called as one of labels usually is."""
    rows = "".join(f"train/dog/{i}.png,s{i},dog\n" for i in range(3))
    for i, name in enumerate(ODD[:3]):
        (fresh / "train" / "dog" / name).rename(fresh / "train" / "dog" / f"{i}.png")
    (fresh / "new.csv").write_text(f"path,scanner,what\n{rows}")
    densekit.evaluate(run, f"csv:{fresh}/new.csv", out=tmp_path / "out")
    found = [(row["path"], row["label"], row["scanner"]) for row in rows_in(tmp_path / "out")]
    assert found == [(f"train/dog/{i}.png", "dog", f"s{i}") for i in range(3)]
    assert "what" not in rows_in(tmp_path / "out")[0]


def test_a_table_from_windows_keeps_its_spelling(run: Path, fresh: Path, tmp_path: Path) -> None:
    """The first rows, by which slashes are tried, have no label here, and no file."""
    names = [*(f"gone\\{i}.png" for i in range(3)), f"train\\{HOSTILE}\\0.png", "train\\dog\\=1+1.png"]
    with (fresh / "new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows(zip(names, ("", "", "", HOSTILE, "dog"), strict=True))
    settings = {"data.blank_labels": "unknown"}
    densekit.evaluate(run, f"csv:{fresh}/new.csv", settings=settings, out=tmp_path / "out")
    assert [path_of(row["path"]) for row in rows_in(tmp_path / "out")] == names[3:]


def test_areas_can_be_computed_from_the_rows_of_several_labels(xray_run: Run, tmp_path: Path) -> None:
    """To 1e-12 of scikit-learn's: probabilities are written to their last bit."""
    result: Any = xray_run.evaluate(out=tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    assert len(rows) == result.count
    assert {"Patient ID", "Age"} <= set(rows[0])
    for of_class in result.per_class:
        name = of_class["class"]
        known = [row for row in rows if row[f"label_{name}"]]
        labels, scores = ([float(row[f"{what}_{name}"]) for row in known] for what in ("label", "probability"))
        assert len(known) == of_class["known"] < len(rows)
        assert roc_auc_score(labels, scores) == pytest.approx(of_class["auroc"], abs=1e-12)
        assert average_precision_score(labels, scores) == pytest.approx(of_class["ap"], abs=1e-12)
        assert all(
            (float(row[f"probability_{name}"]) >= of_class["threshold"]) == (row[f"predicted_{name}"] == "1")
            for row in rows
        )
    pairs = [
        [(row[f"label_{c}"], row[f"predicted_{c}"]) for c in densekit.load(xray_run.folder).classes] for row in rows
    ]
    right = [all(label in ("", taken) for label, taken in each) for each in pairs]
    assert [row["correct"] == "1" for row in rows] == right
    assert 0 < sum(right) < len(right)
    text = words_of(tmp_path / "out" / "report.html")
    assert f"{result.auroc:.3f} AUROC" in text
    assert "chosen on the validation images" in text
    assert "these same ones" not in text


def test_images_in_memory_are_named_by_their_position(tiny_run: Path, tmp_path: Path) -> None:
    result = densekit.evaluate(tiny_run, out=tmp_path / "out")
    assert [row["path"] for row in rows_in(tmp_path / "out")] == [str(i) for i in range(result.count)]


def test_images_in_shards_are_named_by_shard_and_key(run: Path, fresh: Path, tmp_path: Path) -> None:
    from densekit.data.write_shards import shard

    shutil.rmtree(fresh / "train" / "dog")
    write_photos(fresh / "train", classes=("dog",), count=3, size=52)
    shard(str(fresh / "train"), tmp_path / "shards")
    densekit.evaluate(run, f"wds:{tmp_path}/shards", out=tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    assert len(rows) == 8
    assert all(re.fullmatch(r"[^/]+\.tar/.+", row["path"]) for row in rows)


@pytest.mark.parametrize("extra", ["notes.txt", "config.yaml"])
def test_a_folder_with_other_files_is_refused_before_any_work(
    run: Path, tmp_path: Path, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / extra).write_text("mine")
    monkeypatch.setattr("densekit.evaluation.evaluate.load", lambda _: pytest.fail("loaded"))
    with pytest.raises(InvalidInput, match="holds other files"):
        densekit.evaluate(run, out=tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [extra]
    with pytest.raises(InvalidInput, match="is a file"):
        densekit.evaluate(run, out=tmp_path / "out" / extra)


def test_a_table_of_somebody_else_is_not_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.csv").write_text("id,mine\n1,2\n")
    with pytest.raises(InvalidInput, match="holds other files"):
        densekit.evaluate(run, out=tmp_path / "out")


def test_an_earlier_evaluation_is_replaced(run: Path, fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    densekit.evaluate(run, out=tmp_path / "out")
    before = len(rows_in(tmp_path / "out"))
    densekit.evaluate(run, fresh, out=tmp_path / "out")
    assert len(rows_in(tmp_path / "out")) == metrics_in(tmp_path / "out")["count"] == 10 != before


def test_a_full_disk_leaves_no_half_of_an_evaluation(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("densekit.evaluation.report_page.write_evaluation", full)
    with pytest.raises(BadData, match="No space left"):
        densekit.evaluate(run, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_inside_the_data_is_no_class(run: Path, fresh: Path) -> None:
    densekit.evaluate(run, fresh / "train", out=fresh / "train" / "evaluation")
    assert densekit.evaluate(run, fresh / "train").count == 10
