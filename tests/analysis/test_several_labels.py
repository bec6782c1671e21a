"""Of models with several labels: losses and areas leave out what is not known, and every part of an analysis works."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from densekit import Run
from densekit.analysis import ablation, activation_maps, error_metrics, gradients, probes
from densekit.analysis.connectivity import blocks_of
from densekit.analysis.image_sample import Sample, draw
from densekit.data import load
from densekit.data.split import divide
from densekit.errors import BadData
from densekit.metrics.multi_label import MultiLabel
from tests.analysis.conftest import Trained, densenet_in, zeroed
from tests.conftest import Command
from tests.data.xrays import FINDINGS
from tests.html_pages import text_of
from tests.narrow import not_none

NAN = float("nan")


@pytest.fixture(scope="module")
def network(xray_run: Run) -> Trained:
    return densenet_in(xray_run.folder)


@pytest.fixture(scope="module")
def test_images(network: Trained) -> tuple[Sample, int]:
    """Every test image, as an analysis draws it, and how many there are."""
    _, card = network
    data = not_none(card.data)
    images = divide(load(data, Path()), data).splits["test"]
    return draw(images, card.preprocessing, 10_000, torch.device("cpu"), data.max_pixels), len(images)


def test_an_images_loss_is_the_mean_over_the_labels_that_are_known() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0], [1.0, 5.0, 0.0]], dtype=torch.float64)
    found = error_metrics.losses(logits, torch.tensor([[1.0, 0.0, NAN], [NAN, 1.0, NAN]]))
    expected = [(math.log(2) + math.log1p(math.exp(2))) / 2, math.log1p(math.exp(-5))]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_the_error_is_what_evaluation_says(network: Trained, xray_run: Run, test_images: tuple[Sample, int]) -> None:
    """One minus the mean AUROC; images of which nothing is known change neither."""
    model, _ = network
    sample, _ = test_images
    assert 1 - error_metrics.error_of(model, sample) == pytest.approx(xray_run.evaluate(split="test").auroc, abs=1e-6)


def test_images_of_which_no_label_is_known_are_left_out(network: Trained, test_images: tuple[Sample, int]) -> None:
    _, card = network
    sample, available = test_images
    assert 0 < len(sample) <= available
    assert not sample.targets.isnan().all(1).any()
    data = not_none(card.data)
    images = divide(load(data, Path()), data).splits["test"].subset(np.arange(5))
    images.labels[:] = NAN
    with pytest.raises(BadData, match="no label"):
        draw(images, card.preprocessing, 5, torch.device("cpu"), data.max_pixels)


@torch.no_grad()
def test_a_cut_is_zero_weights(network: Trained, test_images: tuple[Sample, int]) -> None:
    model, _ = network
    blocks = blocks_of(model)
    sample = test_images[0].first(20)
    found = ablation.ablate(model, blocks, sample)
    known = ~sample.targets.isnan()
    for b, s, r in ((0, 0, 0), (1, 1, 1), (2, 0, 1)):
        changes = []
        for network_ in (zeroed(model, b, s, r), model):
            scores = network_(sample.images).double().sigmoid()
            right = torch.where(sample.targets == 1, scores, 1 - scores)
            changes.append((-right.log().where(known, 0).sum(1) / known.sum(1)).mean())
        assert found.maps(blocks)[0][b][s, r] == pytest.approx(float(changes[0] - changes[1]), abs=1e-5)


def test_curves_are_of_the_mean_area(network: Trained, test_images: tuple[Sample, int]) -> None:
    model, _ = network
    blocks = blocks_of(model)
    sample = test_images[0].first(60)
    edges = [(b, s, r) for b, block in enumerate(blocks) for s, r in block.edges()]
    (curve,) = ablation.remove(model, blocks, {"order": edges}, sample)
    with torch.no_grad():
        scores = model(sample.images).numpy()
    targets = sample.targets.numpy()
    areas = [roc_auc_score(t[~np.isnan(t)], s[~np.isnan(t)]) for t, s in zip(targets.T, scores.T, strict=True)]
    assert curve.error[0] == pytest.approx(1 - np.mean(areas), abs=1e-6)
    # Cut off from the image, all answers are alike.
    assert curve.error[-1] == pytest.approx(error_metrics.guessing("AUROC", 4))


def test_gradients_are_those_of_training(network: Trained, test_images: tuple[Sample, int]) -> None:
    """Where all labels are known, training's own loss."""
    model, card = network
    sample = test_images[0].first(16)
    sample = Sample(sample.images, sample.targets.nan_to_num())
    found = gradients.flow("net", "trained", model, sample)
    model = copy.deepcopy(model).train()
    task = MultiLabel(card.classes)
    (task.loss(model(sample.images), sample.targets) / (len(sample) * len(card.classes))).backward()
    assert found.norm[-1] == pytest.approx(
        not_none(model.get_parameter("classifier.weight").grad).norm().item(), rel=1e-3
    )


def test_probes_find_what_a_layer_knows_and_only_that() -> None:
    random = np.random.default_rng(0)
    targets = torch.tensor(random.integers(0, 2, (200, 2)), dtype=torch.float32)
    targets[::7, 0] = NAN

    def features(sample: Sample) -> dict[str, probes.Features]:
        told = np.nan_to_num(sample.targets.numpy(), nan=9) + random.normal(0, 0.1, (200, 2))
        return {"own": {"silent": random.normal(size=(200, 3)), "half": told[:, :1], "telling": told}}

    sample = Sample(torch.zeros(200, 1, 1, 1), targets)
    (curve,) = probes.probe("net", features, sample, sample)
    silent, half, telling = curve.accuracy
    assert telling == 1
    assert 0.7 < half < 0.8  # knows one of the two
    assert silent < 0.65


def test_a_label_that_cannot_be_learned_is_guessed() -> None:
    images = torch.zeros(40, 1, 1, 1)
    learned = torch.tensor([[0.0, 1.0], [0.0, 0.0]] * 20)  # nobody has the first
    asked = torch.tensor([[1.0, 1.0], [0.0, 0.0]] * 20)

    def features(sample: Sample) -> dict[str, probes.Features]:
        return {"own": {"layer": sample.targets.numpy()}}

    (curve,) = probes.probe("net", features, Sample(images, learned), Sample(images, asked))
    assert curve.accuracy == [(0.5 + 1) / 2]


def test_maps_are_of_labels_that_were_found(network: Trained, test_images: tuple[Sample, int]) -> None:
    pytest.importorskip("captum")
    model, card = network
    sample, _ = test_images
    found = activation_maps.activation_maps(model, card, sample)
    with torch.no_grad():
        scores = model(sample.images).sigmoid()
    kinds = []
    for item in found.items:
        label = FINDINGS.index(item.predicted)
        assert item.confidence == pytest.approx(float(scores[item.sample, label]), abs=1e-5)
        assert item.confidence >= card.thresholds[label] - 1e-6
        target = float(sample.targets[item.sample, label])
        assert target == (1 if item.true == item.predicted else 0)
        kinds.append(item.true)
    right = [name for name in kinds if name != activation_maps.ABSENT]
    assert right
    assert len(set(right)) == len(right)  # one of each label
    assert kinds == [*right, *[activation_maps.ABSENT] * (len(kinds) - len(right))]


@pytest.mark.slow
def test_a_run_is_looked_into_from_all_sides(densekit: Command, xray_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    status, out, err = densekit("analyse", xray_run.folder, "--images", 60, "--out", "found", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["metric"] == "AUROC"
    assert found["images"] <= 60
    assert found["accuracy"] > 0.5
    assert found["edges"]["curves"][0]["error"][0] < 0.5
    assert found["observations"]["ablation"]
    assert len(found["gradients"]) == 3
    assert max(found["probes"][0]["accuracy"]) > 0.5
    assert (tmp_path / "found" / "figures" / "activation_maps.png").is_file()
    text = text_of(tmp_path / "found" / "report.html")
    assert "one minus the mean AUROC" in text
    assert "shown is the mean of their AUROC" in text
    assert "false alarms" in text


def test_beside_is_a_network_of_the_same_classes(densekit: Command, xray_run: Run, tiny_run: Path) -> None:
    status, _, err = densekit("analyse", xray_run.folder, "--beside", tiny_run, "--only", "gradients")
    assert status == 2
    assert "other classes" in err
    assert err.count("\n") == 1
