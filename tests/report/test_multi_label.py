"""The report of a multi-label run: what is measured by class, in numbers and curves, and harmless."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import densekit
from densekit.metrics.evaluation_loop import evaluate
from densekit.metrics.multi_label import MultiLabel
from densekit.models import DenseNet
from densekit.report import plots
from densekit.runs import run_folder
from densekit.terminal import Display
from densekit.training.report_page import write_report
from densekit.training.setup import prepare
from tests.html_pages import CHROMIUM, HOSTILE, looked_at, text_of
from tests.narrow import expect_type, not_none


@pytest.fixture(scope="module")
def finished(xray_run: densekit.Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """(run, prepared, result, records) of the trained network, in a folder of its own."""
    folder = tmp_path_factory.mktemp("report")
    for name in ("metrics.jsonl", "config.yaml", "env.json"):
        (folder / name).write_bytes((xray_run.folder / name).read_bytes())
    classifier = densekit.load(xray_run.folder)
    model = expect_type(classifier.model, DenseNet)
    prepared = replace(prepare(run_folder.recipe_of(folder), folder), model=model, task=classifier.task)
    return folder, prepared, *measured(prepared)


def measured(prepared: Any) -> tuple[Any, Any]:
    names = (prepared.recipe.model.name, prepared.data.name, "test")
    skipped = prepared.data.skipped
    return evaluate(prepared.model, prepared.loader("test"), task=prepared.task, names=names, skipped=skipped)


def test_numbers_on_the_page_are_the_results(finished: tuple[Any, ...]) -> None:
    _, _, result, records = finished
    text = text_of(write_report(*finished))
    assert f"{result.auroc:.3f} AUROC, mean of the classes" in text
    assert f"{result.ap:.3f} average precision" in text
    assert f"{int((~np.isnan(records.target)).sum()):,} known labels" in text
    for row in result.per_class:
        assert f"{row['class']} {row['count']} of {row['known']} {row['auroc']:.3f} {row['ap']:.3f}" in text
    assert "highest on the validation images" in text
    assert "No group, such as a patient, is in two of them" in text
    assert "they chose nothing" in text
    assert "accuracy" not in text


def test_curves_take_the_place_of_the_confusion_matrix(finished: tuple[Any, ...]) -> None:
    write_report(*finished)
    names = {path.stem for path in (finished[0] / "plots").iterdir()}
    assert names == {"loss", "auroc", "learning_rate", "roc", "precision_recall", "reliability"}


def test_curves_end_at_the_areas_that_are_named(finished: tuple[Any, ...]) -> None:
    """The area under the drawn line is the number beside the class."""
    _, _, result, records = finished
    axes = plots.roc_curves(result, records).axes[0]
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert len(lines) == len(result.per_class)
    for line, row, text in zip(lines, result.per_class, not_none(axes.get_legend()).get_texts(), strict=True):
        assert np.trapezoid(np.asarray(line.get_ydata()), np.asarray(line.get_xdata())) == pytest.approx(row["auroc"])
        assert text.get_text() == f"{row['auroc']:.3f}  {row['class']}"


def test_a_class_without_a_curve_and_many_classes_are_drawn(finished: tuple[Any, ...]) -> None:
    run, prepared, _, records = finished
    many = 25
    wide = replace(
        records,
        target=np.tile(records.target, (1, 7))[:, :many].copy(),
        score=np.tile(records.score, (1, 7))[:, :many],
        loss=np.tile(records.loss, (1, 7))[:, :many],
    )
    wide.target[:, 3] = 0
    wide.target[:, 4] = np.nan
    classes = tuple(f"_{i}" for i in range(many))
    task = MultiLabel(classes)
    facts = {"model": "m", "data": "d", "split": "test", "seconds": 0.0, "skipped": []}
    result, rows = task.measure([wide.sample, wide.target, wide.score, wide.loss], facts)
    prepared = replace(prepared, task=task, data=replace(prepared.data, classes=classes))
    axes = plots.precision_recall_curves(result, rows).axes[0]
    assert len(axes.lines) == many - 2
    assert axes.get_legend() is None
    labels = prepared.data.splits["train"]
    labels = replace(labels, labels=labels.labels.repeat(1, 7)[:, :many])
    prepared = replace(prepared, data=prepared.data.with_splits(dict(prepared.data.splits) | {"train": labels}))
    text = text_of(write_report(run, prepared, result, rows))
    assert "_3 0 of" in text
    assert "n/a" in text


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_browser_shows_it_without_a_complaint(finished: tuple[Any, ...]) -> None:
    run, prepared, *_ = finished
    classes = (HOSTILE, "数字", "$\\frac{$", "_d")
    prepared = replace(prepared, task=replace(prepared.task, classes=classes))
    prepared = replace(prepared, data=replace(prepared.data, classes=classes))
    page_file = write_report(run, prepared, *measured(prepared))
    look = looked_at(page_file)
    assert look.complaints == []
    assert {url.split(":", 1)[0] for url in look.requests} <= {"file", "data"}
    assert min(look.widths) > 0
    assert look.overflow <= 0


def test_an_epoch_is_one_line() -> None:
    import io

    file = io.StringIO()
    display = Display(Console(file=file, width=80))
    with display.training(300, steps=1, done=0):
        row = {"train_loss": 10.1234, "train_exact": 0.5, "val_loss": 10.5678, "val_auroc": 0.98765, "val_ap": 0.5}
        display.epoch({"epoch": 300, "seconds": 99 * 3600 + 3599, **row})
    (line,) = file.getvalue().splitlines()
    assert len(line) <= 80
    assert "train loss 10.123  val AUROC 0.9877 loss 10.568" in line
