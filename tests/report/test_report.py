"""The report of a run: whole, harmless whatever a class is called, and at peace with every shape of data."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from densekit.config import with_settings
from densekit.data.sets import FileImages
from densekit.metrics.evaluation_loop import evaluate
from densekit.metrics.single_label import Records, Result, SingleLabel
from densekit.models.names import config_for
from densekit.recipes import recipe_for
from densekit.report import plots
from densekit.report.single_label import confused_pairs, wilson
from densekit.runs import run_folder
from densekit.terminal import Display
from densekit.training.report_page import write_report
from densekit.training.setup import TrainContext, prepare
from densekit.training.trainer import fit
from tests.html_pages import CHROMIUM, HOSTILE, looked_at, text_of
from tests.narrow import expect_type

Trained = tuple[Path, TrainContext, Result, Records]
"""The folder of a run, what it trained, and its evaluation."""


def trained(run: Path, source: str, **settings: Any) -> Trained:
    """(run, prepared, result, records) after one small epoch."""
    recipe = recipe_for("quick", source, config_for("densenet_bc_22_12"))
    changes = {"epochs": 1, "data.limit": 64, "model.blocks": [1, 1]}
    changes |= {key.replace("__", "."): value for key, value in settings.items()}
    prepared = prepare(with_settings(recipe, changes), run.parent)
    run_folder.create(run, prepared.recipe, prepared.data)
    result, records = fit(prepared, run, Display(Console(file=io.StringIO())))
    return run, prepared, expect_type(result, Result), expect_type(records, Records)


def evaluated_as(prepared: TrainContext, classes: tuple[str, ...]) -> tuple[TrainContext, Result, Records]:
    """The same network and images under other class names."""
    prepared = replace(prepared, data=replace(prepared.data, classes=classes))
    names = (prepared.recipe.model.name, prepared.data.name, "test")
    loader, skipped = prepared.loader("test"), prepared.data.skipped
    result, records = evaluate(prepared.model, loader, task=SingleLabel(classes), names=names, skipped=skipped)
    return prepared, expect_type(result, Result), expect_type(records, Records)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("digits") / "run", "digits")


def test_page_and_plots_are_written(digits: Trained) -> None:
    page = write_report(*digits)
    assert page == digits[0] / "report.html"
    names = {path.stem for path in (digits[0] / "plots").iterdir()}
    assert names == {"loss", "accuracy", "learning_rate", "confusion", "reliability"}
    assert page.stat().st_size < 1_000_000  # opens at once on a phone


def test_numbers_on_the_page_are_the_results(digits: Trained) -> None:
    result = digits[2]
    text = text_of(write_report(*digits))
    for words in (
        f"{100 * result.top1:.1f}%",
        f"{result.loss:.3f}",
        f"{100 * result.ece:.1f}%",
        f"of {result.count} test images",
        "top-5 accuracy",
        f"densekit predict {digits[0]} photo.jpg",
        f"densekit evaluate {digits[0]}",
        "label_smoothing: 0.1",
        "they chose nothing",
    ):
        assert words in text, words


def test_nothing_is_loaded_from_anywhere(digits: Trained) -> None:
    page = write_report(*digits).read_text()
    sources = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert len(sources) > 16
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in page


def test_class_names_are_text(digits: Trained) -> None:
    run, prepared, *_ = digits
    page = write_report(run, *evaluated_as(prepared, (HOSTILE, *"123456789"))).read_text()
    assert "<b>x</b>" not in page
    assert "<img src=http" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page


def test_names_that_matplotlib_cannot_write_become_numbers(digits: Trained) -> None:
    """A missing glyph is a warning and an empty box; $...$ would be set as a formula, or fail as one."""
    run, prepared, *_ = digits
    prepared, result, records = evaluated_as(prepared, ("数字", "$\\frac{$", "a" * 60, *"3456789"))
    axes = plots.confusion_matrix(result).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:4] == ["#1", "$\\frac{$", "a" * 17 + "…", "3"]
    assert "数字" in text_of(write_report(run, prepared, result, records))


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("synthetic:8x8x3:2:60", {}),
        ("synthetic:8x8x7:3:90", {"data__protocol": "final"}),
        ("synthetic:8x8x2:20:300", {"select": "best"}),
        ("synthetic:8x8x3:100:400", {"data__limit": "null"}),
    ],
)
def test_any_data_has_a_report(tmp_path: Path, source: str, settings: dict[str, Any]) -> None:
    run, prepared, result, records = trained(tmp_path / "a run", source, **settings)
    text = text_of(write_report(run, prepared, result, records))
    classes = len(prepared.data.classes)
    assert ("top-5" in text) == (classes > 5)
    assert ("Nothing was held out" in text) == (settings.get("data__protocol") == "final")
    assert ("epoch 1, the most accurate" in text) == (settings.get("select") == "best")
    assert f"predict '{run}' photo.jpg" in text  # a path with a space is quoted for the shell


def test_folder_of_photographs_with_a_bad_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("cats & <dogs>", "others"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "others" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    run, prepared, result, records = trained(
        tmp_path / "run", str(tmp_path / "photos"), data__image_size=16, data__max_bad=1, data__limit=10
    )
    wrong = replace(records, predicted=1 - records.target)  # so that every test image is shown
    images = prepared.data.splits["test"]
    assert isinstance(images, FileImages)
    images.paths[0].unlink()
    page = write_report(run, prepared, result, wrong)
    text = text_of(page)
    assert "bad.jpg" in text
    assert "1 file could not be used" in text
    assert "trained on photos" in text
    assert text.count("cannot be read any more") == 1
    assert page.read_text().count("data:image/jpeg") == 2 * (len(images) - 1)  # and its map


def test_wilson_interval() -> None:
    """Newcombe 1998, table I: 81 of 263 and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_confused_pairs_come_commonest_first(digits: Trained) -> None:
    result = replace(digits[2], confusion=[[5, 1, 0], [0, 9, 4], [0, 0, 2]], per_class=digits[2].per_class[:3])
    pairs = [(pair["true"], pair["predicted"], pair["count"]) for pair in confused_pairs(result)]
    assert pairs == [("1", "2", 4), ("0", "1", 1)]


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_browser_shows_it_without_a_complaint(digits: Trained) -> None:
    run, prepared, *_ = digits
    page_file = write_report(run, *evaluated_as(prepared, (HOSTILE, *"123456789")))
    look = looked_at(page_file)
    assert look.complaints == []
    assert {url.split(":", 1)[0] for url in look.requests} <= {"file", "data"}
    assert len(look.widths) > 16
    assert min(look.widths) > 0
    assert look.overflow <= 0  # nothing wider than a phone
    assert "digits" in look.heading
