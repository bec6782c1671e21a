"""Data with some of a model's classes, or in another order, are matched by name; what is not tested is said."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import densekit
from densekit.config import DataConfig
from densekit.data import load
from densekit.errors import BadData
from densekit.inference.classifier import Prediction
from tests.conftest import write_photos
from tests.data.xrays import SETTINGS, write_xrays
from tests.narrow import expect_type, not_none

SMALL: dict[str, Any] = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}


def test_a_subset_of_the_classes_is_measured_over_all_of_the_models(
    three_class_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = write_photos(tmp_path / "new", classes=("cat", "dog"), count=5, size=50)
    result = densekit.evaluate(three_class_run, new)
    assert "new lacks 1 of the 3 classes of" in (said := capsys.readouterr().err)
    assert "not tested: ape" in said
    classifier = densekit.load(three_class_run)
    paths = sorted(new.rglob("*.png"))
    right = [
        expect_type(each, Prediction).top(1)[0]["class"] == path.parent.name
        for path, each in zip(paths, classifier.predict_each(paths), strict=True)
    ]
    assert result.top1 == pytest.approx(sum(right) / len(right))
    rows = {row["class"]: row for row in result.per_class}
    assert {name: row["count"] for name, row in rows.items()} == {"ape": 0, "cat": 5, "dog": 5}
    assert rows["ape"]["precision"] is rows["ape"]["recall"] is None


def test_an_unknown_class_is_still_an_error(three_class_run: Path, tmp_path: Path) -> None:
    new = write_photos(tmp_path / "new", classes=("cat", "emu"), count=3, size=50)
    with pytest.raises(BadData, match=r"classes of new are not those of .*emu"):
        densekit.evaluate(three_class_run, new)


def test_training_images_are_known_among_fewer_classes(three_class_run: Path, tmp_path: Path) -> None:
    source = Path(not_none(densekit.load(three_class_run).card.data).source)
    for name in ("cat", "dog"):
        shutil.copytree(source / name, tmp_path / "part" / name)
    rows = [line.split(",") for line in (three_class_run / "split.csv").read_text().splitlines()[1:]]
    unseen = [row for row in rows if row[0] == "test" and row[2] != "ape"]
    assert densekit.evaluate(three_class_run, tmp_path / "part").count == len(unseen)


def test_columns_of_a_table_are_matched_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_xrays(tmp_path / "xrays", patients=40)
    run = densekit.train(f"csv:{table}", model="densenet_bc_10_8", epochs=1, out=tmp_path / "run", settings=SETTINGS)
    names = load(densekit.load(run.folder).card.data or DataConfig(source="digits"), tmp_path).classes
    turned = densekit.evaluate(run.folder, settings={"data.label_columns": list(reversed(names))})
    assert turned.per_class == run.result.per_class
    fewer = densekit.evaluate(run.folder, settings={"data.label_columns": list(names[:2])})
    assert [row["known"] > 0 for row in fewer.per_class] == [True, True] + [False] * (len(names) - 2)
    assert fewer.per_class[:2] == run.result.per_class[:2]
    assert "not tested" in capsys.readouterr().err
