"""Several labels an image, some of them unknown: loss, metrics, thresholds, and a run on made chest X-rays."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor, nn

import densekit
from densekit.config import AugmentConfig, Preprocessing, Recipe, with_settings
from densekit.data import Loader
from densekit.data.mixing import mixing_for
from densekit.data.sets import ArrayImages, SkipList
from densekit.errors import BadData, Interrupted, InvalidInput, ProofFailed
from densekit.inference.classifier import Prediction
from densekit.metrics.evaluation_loop import evaluate
from densekit.metrics.multi_label import MultiLabel
from densekit.metrics.thresholds import best_f1, choose
from densekit.models import config_for
from densekit.recipes import recipe_for
from densekit.training.resume import resume_until
from densekit.training.setup import prepare
from densekit.training.trainer import fit
from tests.data.xrays import FINDINGS, SETTINGS, write_xrays
from tests.faults.command import state_of
from tests.narrow import expect_type, not_none
from tests.networks import Linear, first_gradient

NAN = float("nan")


@pytest.fixture
def table(xrays: Path) -> Path:
    return xrays


@pytest.fixture
def run(xray_run: densekit.Run) -> densekit.Run:
    return xray_run


def predictions(run: densekit.Run) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities, (N, classes), as another program reads them from the run folder."""
    with (run.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = [[float(row[name] or NAN) for name in FINDINGS] for row in rows]
    scores = [[float(row[f"{name} probability"]) for name in FINDINGS] for row in rows]
    return np.array(labels), np.array(scores)


def test_areas_are_scikit_learns_to_1e_6(run: densekit.Run) -> None:
    """Of what is in the run folder, per class, without the labels nobody knows."""
    labels, scores = predictions(run)
    assert np.isnan(labels).any()
    areas = []
    for i, row in enumerate(run.result.per_class):
        known = ~np.isnan(labels[:, i])
        auroc = roc_auc_score(labels[known, i], scores[known, i])
        assert row["auroc"] == pytest.approx(auroc, abs=1e-6)
        assert row["ap"] == pytest.approx(average_precision_score(labels[known, i], scores[known, i]), abs=1e-6)
        assert (row["count"], row["known"]) == (np.nansum(labels[:, i]), known.sum())
        areas.append(auroc)
    assert run.result.auroc == pytest.approx(np.mean(areas), abs=1e-6)
    assert not_none(run.result.auroc) > 0.65  # it has learned, so it is not of noise alone


def test_no_patient_is_in_two_splits_of_the_run(run: densekit.Run, table: Path) -> None:
    homes: dict[str, set[str]] = {}
    with (run.folder / "split.csv").open() as file:
        for row in csv.DictReader(file):
            homes.setdefault(row["group"], set()).add(row["split"])
    assert len(homes) == 100
    assert set(map(len, homes.values())) == {1}
    assert set().union(*homes.values()) == {"train", "val", "test"}


def test_rows_of_an_epoch_and_the_model_card_have_both_areas(run: densekit.Run) -> None:
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"train_loss", "train_exact", "val_loss", "val_auroc", "val_ap", "val_ece"} <= set(rows[0])
    assert not any("top1" in key for row in rows for key in row)
    card = densekit.load(run.folder).card
    assert card.task == "multi-label"
    assert card.metrics["auroc"] == run.result.auroc
    best = max(rows, key=lambda row: row["val_auroc"])
    assert card.provenance["step"] == best["step"]


def test_thresholds_are_chosen_on_the_validation_and_used_by_prediction(run: densekit.Run, table: Path) -> None:
    classifier = densekit.load(run.folder)
    thresholds = classifier.card.thresholds
    assert [row["threshold"] for row in run.result.per_class] == list(thresholds)
    with (run.folder / "split.csv").open() as file:
        names = [row["image"] for row in csv.DictReader(file) if row["split"] == "val"]
    with table.open() as file:
        cells = {row["Path"]: row for row in csv.DictReader(file)}
    found = [expect_type(each, Prediction) for each in classifier.predict_each(table.parent / name for name in names)]
    for i, name in enumerate(FINDINGS):
        known = [row for row, image in enumerate(names) if cells[image][name] in ("0", "1")]
        truth = np.array([cells[names[row]][name] == "1" for row in known])
        scores = np.array([found[row].probabilities[i] for row in known])
        chosen = f1_score(truth, scores >= thresholds[i])
        assert chosen == pytest.approx(max(f1_score(truth, scores >= t) for t in scores))
    for prediction in found:
        reached = prediction.probabilities >= np.array(thresholds)
        assert prediction.present == tuple(name for name, yes in zip(FINDINGS, reached, strict=True) if yes)
        assert {row["class"] for row in prediction.top(4) if row["present"]} == set(prediction.present)
        assert len(prediction.top(4)) == 4
        assert {row["class"] for row in prediction.top(1) if row["present"]} == set(prediction.present)
        assert len([row for row in prediction.top(1) if not row["present"]]) <= 1


def test_evaluation_repeats_what_training_measured(run: densekit.Run) -> None:
    again = run.evaluate()
    assert again.count == run.result.count
    assert again.auroc == pytest.approx(run.result.auroc, abs=1e-6)
    assert [row["recall"] for row in again.per_class] == [row["recall"] for row in run.result.per_class]


def test_another_table_is_read_by_the_columns_of_the_first(run: densekit.Run, tmp_path: Path) -> None:
    other = write_xrays(tmp_path / "other", patients=10, seed=5)
    result = densekit.evaluate(run.folder, f"csv:{other}")
    assert (result.split, result.auroc is not None) == ("all", True)
    (tmp_path / "one.csv").write_text(f"path,label\n{other.parent}/images/00000_000.png,a\n{table_row(other)},b\n")
    with pytest.raises(InvalidInput, match=r"label of .*one.csv does not list classes of the model \(Cardiomegaly"):
        densekit.evaluate(run.folder, f"csv:{tmp_path}/one.csv", settings={"data.label_columns": "label"})


def table_row(table: Path) -> Path:
    return table.parent / table.read_text().splitlines()[-1].split(",")[0]


def test_all_of_it_resumes_exactly(table: Path, tmp_path: Path) -> None:
    """With mixing, balanced classes and smoothed labels."""
    settings = SETTINGS | {"class_weights": "balanced", "augment.mixup": 0.3, "data.limit": 96, "select": "best"}
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 2, "settings": settings}
    whole = densekit.train(f"csv:{table}", out=tmp_path / "whole", **words).folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densekit.training.session.fit", lambda *given, **named: fit(*given, **named | {"until": 2}))
        with pytest.raises(Interrupted):
            densekit.train(f"csv:{table}", out=tmp_path / "cut", **words)
    with pytest.raises(Interrupted):
        resume_until(tmp_path / "cut", 4, None, Console(quiet=True))
    densekit.resume(tmp_path / "cut")
    assert state_of(tmp_path / "cut") == state_of(whole)
    assert (tmp_path / "cut" / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()


def test_a_changed_label_is_another_run(tmp_path: Path) -> None:
    table = write_xrays(tmp_path / "xrays", patients=40)
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "settings": SETTINGS | {"data.limit": 32}}
    run = densekit.train(f"csv:{table}", epochs=1, out=tmp_path / "run", **words)
    header, *rows = table.read_text().splitlines()
    flipped = [row[:-1] + {"0": "1", "1": "0"}.get(row[-1], row[-1]) for row in rows]
    table.write_text("\n".join([header, *flipped]))
    with pytest.raises(ProofFailed, match="the train images"):
        densekit.resume(run.folder, epochs=2)


def recipe(table: Path, **settings: object) -> Recipe:
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    named = recipe_for("quick", f"csv:{table}", config_for("densenet_bc_10_4"))
    return with_settings(named, SETTINGS | changes)


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.2, 4.0]])
TARGETS = torch.tensor([[1.0, NAN, 0.0], [0.0, 1.0, NAN]])


def test_what_is_not_known_takes_no_part_in_the_loss() -> None:
    task = MultiLabel(("a", "b", "c"), known=2.0)
    logits = LOGITS.clone().requires_grad_()
    loss = task.loss(logits, TARGETS)
    known = ~TARGETS.isnan()
    expected = F.binary_cross_entropy_with_logits(LOGITS[known], TARGETS[known])
    assert loss.item() / 2 == pytest.approx(expected.item())  # of two images, with two known labels on average
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, known)
    assert torch.isfinite(logits.grad).all()


def test_labels_are_smoothed_towards_a_half() -> None:
    smooth = MultiLabel(("a", "b", "c"), label_smoothing=0.2, known=2.0).loss(LOGITS, TARGETS)
    softer = torch.where(TARGETS == 1, 0.9, 0.1).masked_fill(TARGETS.isnan(), NAN)
    torch.testing.assert_close(smooth, MultiLabel(("a", "b", "c"), known=2.0).loss(LOGITS, softer))


def test_balanced_classes_weigh_what_is_rare(table: Path, tmp_path: Path) -> None:
    """Of each class its images and the others weigh alike, as torch's pos_weight has it, and 1 on average."""
    task = prepare(recipe(table, class_weights="balanced", label_smoothing=0.0), tmp_path).task
    labels = prepare(recipe(table), tmp_path).data.splits["train"].labels
    absent, present = (labels == 0).sum(0), (labels == 1).sum(0)
    assert isinstance(task, MultiLabel)
    assert task.weights is not None
    torch.testing.assert_close(task.weights[0] * absent, task.weights[1] * present)
    torch.testing.assert_close(task.weights[0] * absent + task.weights[1] * present, (absent + present).float())
    logits, known = torch.randn(labels.shape), ~labels.isnan()
    theirs = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), task.weights[0] * known, reduction="sum", pos_weight=absent / present
    )
    torch.testing.assert_close(task.loss(logits, labels) * task.known, theirs)


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_a_mixture_with_something_unknown_is_unknown(alphas: dict[str, float]) -> None:
    mix = mixing_for(AugmentConfig(**alphas), 3)
    assert mix is not None
    _, targets = mix(torch.rand(2, 1, 8, 8), TARGETS)
    assert targets.isnan().tolist() == [[False, True, True], [False, True, True]]
    assert targets[0, 0] + targets[1, 0] == pytest.approx(1.0)


def test_a_hit_is_an_image_with_all_known_labels_right() -> None:
    task = MultiLabel(("a", "b", "c"))
    assert task.num_correct(LOGITS, TARGETS) == 1  # c of the first is wrong
    assert task.num_correct(LOGITS, torch.full((2, 3), NAN)) == 2


def test_pieces_of_a_batch_add_up_to_its_gradient(table: Path, tmp_path: Path) -> None:
    """Whichever of them has more unknown labels."""
    gradients = []
    for pieces in (1, 3):
        prepared = prepare(recipe(table, accumulate=pieces), tmp_path)
        torch.manual_seed(0)
        model = Linear(32 * 32, 4)
        gradients.append(first_gradient(prepared, model)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_threshold_is_where_f1_is_highest() -> None:
    random = np.random.default_rng(0)
    target = random.random(200) < 0.2
    score = np.round(random.random(200) + 0.4 * target, 2) / 1.5  # with equal ones
    found = best_f1(target, score.astype(np.float64))
    assert f1_score(target, score >= found) == max(f1_score(target, score >= t) for t in score)
    assert found not in score  # so that rounding decides nothing
    assert choose("f1", np.ones(3, bool), np.ones(3)) == choose("f1", np.zeros(3, bool), np.ones(3)) == 0.5


class Fixed(nn.Module):
    """Logits that the pixels spell out."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0] * 40 - 20


def measured(pixels: Tensor, labels: Tensor, batch: int) -> Any:
    preprocessing = Preprocessing(channels=1, size=(1, 3), resize=1, mean=(0.0,), std=(1.0,))
    loader = Loader(ArrayImages(pixels, labels), preprocessing, batch)
    return evaluate(Fixed(), loader, task=MultiLabel(("a", "b", "c")), names=("m", "d", "s"), skipped=SkipList(0))[0]


def test_metrics_do_not_depend_on_the_batches_and_know_what_has_none() -> None:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (50, 1, 1, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (50, 3), generator=generator).float()
    labels[:, 2] = 0  # nothing to find
    labels[::7, 0] = NAN
    result = measured(pixels, labels, 50)
    assert replace(measured(pixels, labels, 7), seconds=0) == replace(result, seconds=0)
    a, b, c = result.per_class
    assert (c["auroc"], c["ap"], c["recall"], c["count"]) == (None, None, None, 0)
    assert result.auroc == pytest.approx((a["auroc"] + b["auroc"]) / 2)
    known = ~labels.isnan()
    expected = F.binary_cross_entropy_with_logits(Fixed()(pixels.float() / 255)[known], labels[known])
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert sum(row["count"] for row in result.reliability) == known.sum()
    with pytest.raises(BadData, match="no label of the s images"):
        measured(pixels, torch.full((50, 3), NAN), 50)


def test_the_surest_scores_keep_their_order() -> None:
    """In float32 both of these probabilities would be 1."""
    columns = MultiLabel(("a",)).columns(torch.tensor([[20.0], [21.0]]), torch.tensor([[1.0], [1.0]]))
    assert columns[1][0] < columns[1][1]
