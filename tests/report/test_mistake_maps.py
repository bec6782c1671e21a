"""Maps beside the mistakes of a report: over the right picture, of the reported weights, within bounds."""

import base64
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import densekit
from densekit.data.sets import FileImages
from densekit.metrics.evaluation_loop import evaluate
from densekit.report import mistake_maps
from densekit.report.mistake_maps import overlay, with_maps
from densekit.report.pictures import MOST, Measured, Picture
from densekit.runs import run_folder
from densekit.training.compose import compose
from densekit.training.report_page import write_report
from densekit.training.setup import prepare
from tests.data.tables import write_table
from tests.narrow import expect_type, not_none

SETTINGS = {"data.limit": 60, "batch_size": 30}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> densekit.Run:
    out = tmp_path_factory.mktemp("maps") / "run"
    return densekit.train("digits", model="densenet_bc_10_4", epochs=1, out=out, settings=SETTINGS)


def prepared_of(run: densekit.Run) -> Any:
    return prepare(run_folder.recipe_of(run.folder), run.folder)


def maps_of(run: Path, prepared: Any, shown: list[Picture]) -> tuple[list[Picture], str]:
    """By the model that the run reports."""
    data = prepared.data
    measured = Measured(data.splits["test"], data.classes, prepared.preprocessing, prepared.recipe.data.max_pixels)
    classifier = densekit.load(run)
    return with_maps(classifier.model, classifier.device, measured, shown)


def image_in(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_every_mistake_of_the_page_has_a_map(run: densekit.Run) -> None:
    page = run.report.read_text()
    assert page.count('<div class="pair">') == MOST
    assert "under a class activation map of block 1" in page
    uris = re.findall(r'<div class="pair"><img src="([^"]+)"[^>]*><img src="([^"]+)"', page)
    assert len(uris) == MOST
    for _, uri in uris:
        assert min(image_in(uri).size) >= 112
        assert max(image_in(uri).size) <= 224


def test_the_map_lies_over_the_picture_that_it_is_of(run: densekit.Run) -> None:
    """Under the veil is the image itself: where the map says nothing its grey values are unchanged."""
    prepared = prepared_of(run)
    images = prepared.data.splits["test"]
    shown = [Picture(None, True, "", predicted="3", sample=sample) for sample in (7, 2, 7, 11)]
    found, layer = maps_of(run.folder, prepared, shown)
    assert layer == "block 1"
    assert found[0].map_uri == found[2].map_uri != found[1].map_uri
    for picture in found:
        drawn = np.asarray(image_in(str(picture.map_uri)), dtype=float)
        cell = drawn.shape[0] // 8
        middle = drawn[cell // 2 :: cell, cell // 2 :: cell]
        grey = np.abs(middle.max(2) - middle.min(2)) < 6
        truth = images.pixels[picture.sample][0].numpy().astype(float)
        assert grey.any()
        assert np.abs(middle.mean(2) - truth)[grey].mean() < 12


def test_the_veil_is_densest_where_the_map_is_highest() -> None:
    values = torch.full((4, 4), -1.0)
    values[0, 3] = 2.0
    drawn = np.asarray(overlay(torch.full((1, 32, 32), 128, dtype=torch.uint8), values), dtype=float)
    assert drawn.shape == (128, 128, 3)
    orange = drawn[..., 0] - drawn[..., 2]
    row, column = np.unravel_index(orange.argmax(), orange.shape)
    assert row < 32
    assert column >= 96
    assert (drawn[64:, :64] == 128).all()
    assert (drawn == 255).all(2).any()  # the line around the strongest part


def test_the_weights_are_the_reported_ones(tmp_path: Path) -> None:
    """The best epoch's, not the last one's."""
    settings = SETTINGS | {"select": "best", "optimizer.lr": 1.0, "ema.decay": 0}
    best = densekit.train("digits", model="densenet_bc_10_4", epochs=3, out=tmp_path / "run", settings=settings)
    shown = [Picture(None, True, "", predicted="3", sample=5)]
    before, _ = maps_of(best.folder, prepared_of(best), shown)
    shutil.rmtree(best.folder / "checkpoints" / "last")
    assert maps_of(best.folder, prepared_of(best), shown)[0] == before
    assert before[0].map_uri is not None


def test_a_report_without_a_checkpoint_or_without_time_has_pictures_alone(
    run: densekit.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = [Picture(None, True, "", predicted="3", sample=5)]
    monkeypatch.setattr(mistake_maps, "PATIENCE", -1.0)
    assert maps_of(run.folder, prepared_of(run), shown) == (shown, "")
    prepared = prepared_of(run)
    classifier = run.classifier()
    names = (prepared.recipe.model.name, prepared.data.name, "test")
    result, records = evaluate(
        classifier.model, prepared.loader("test"), task=prepared.task, names=names, skipped=prepared.data.skipped
    )
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    pages = [write_report(copy, prepared, result, records).read_text()]
    monkeypatch.undo()
    shutil.rmtree(copy / "checkpoints")
    pages.append(write_report(copy, prepared, result, records).read_text())
    for page in pages:
        assert "class activation map" not in page
        assert "Its surest mistakes" in page


def test_a_photo_and_several_labels_have_maps_too(xray_run: densekit.Run) -> None:
    page = xray_run.report.read_text()
    assert '<div class="pair">' in page
    assert "Where the evidence for" in page


def pairs_in(page: Path) -> list[tuple[str, str]]:
    """(picture, map) of each mistake."""
    return re.findall(r'<div class="pair"><img src="([^"]+)"[^>]*><img src="([^"]+)"', page.read_text())


@pytest.mark.parametrize("kind", ["one label", "several labels", "binary"])
def test_an_evaluation_has_the_maps_of_the_report(
    kind: str, run: densekit.Run, xray_run: densekit.Run, tmp_path: Path
) -> None:
    """On the same images, by the same weights: over the same pictures, and alike to the rounding of a plan."""
    if kind == "binary":
        table = write_table(tmp_path / "table")
        settings = {"data.image_size": 16, "batch_size": 8, "data.label_columns": "ill"}
        run = densekit.train(
            f"csv:{table}", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings
        )
        assert len(run.classifier().classes) == 1
    trained = xray_run if kind == "several labels" else run
    trained.evaluate(out=tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    found, expected = pairs_in(page), pairs_in(trained.report)
    assert [picture for picture, _ in found] == [picture for picture, _ in expected] != []
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        one, other = (np.asarray(image_in(uri), dtype=float) for uri in (mine, theirs))
        assert np.abs(one - other).mean() < 2
    assert "the image as the network sees it" in page.read_text()


def test_an_exported_file_is_evaluated_without_maps(run: densekit.Run, tmp_path: Path) -> None:
    densekit.export_model(run.folder, tmp_path / "exported", formats=["onnx"])
    (file,) = (tmp_path / "exported").glob("*.onnx")
    densekit.evaluate(file, out=tmp_path / "out")
    assert pairs_in(tmp_path / "out" / "report.html") == []
    assert "class activation map" not in (tmp_path / "out" / "report.html").read_text()
    assert "Its surest mistakes" in (tmp_path / "out" / "report.html").read_text()


def test_a_map_of_ten_crops_says_which_of_them_it_shows(tmp_path: Path) -> None:
    from tests.conftest import write_photos

    photos = write_photos(tmp_path / "photos", classes=("ape", "cat", "dog"), count=10)
    settings = {"data.image_size": 32, "batch_size": 10}
    run = densekit.train(photos, model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings)
    result = densekit.evaluate(run.folder, split="all", ten_crop=True, out=tmp_path / "out")
    assert not_none(result.top1) < 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Right of each: the middle one of its ten crops, in grey" in page


def test_a_file_that_has_become_unreadable_is_left_out(tmp_path: Path) -> None:
    from tests.conftest import write_photos

    photos = write_photos(tmp_path / "photos", count=20, size=16)
    settings = {"data.image_size": 16, "data.max_bad": 3}
    prepared = prepare(compose(str(photos), model="densenet_bc_10_4", settings=settings), tmp_path)
    run = densekit.train(
        photos, model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=settings | {"batch_size": 10}
    )
    images = expect_type(prepared.data.splits["test"], FileImages)
    images.path(0).write_bytes(b"no image")
    shown = [replace(Picture(None, True, "", predicted="cat"), sample=sample) for sample in (0, 1)]
    found, _ = maps_of(run.folder, prepared, shown)
    assert found[0].map_uri is None
    assert found[1].map_uri is not None
