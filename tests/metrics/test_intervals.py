"""Intervals: the weighted metrics are scikit-learn's, the bootstrap is the textbook's, and 95 % are 95 %."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, norm
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from densekit.metrics.binary import areas
from densekit.metrics.bootstrap import Units, basic, bca, sampled, wilson
from densekit.metrics.calibration import expected_error, gaps, reliability
from densekit.metrics.intervals import with_intervals
from densekit.metrics.multi_label import MultiLabel
from densekit.metrics.single_label import SingleLabel
from densekit.metrics.weighted import CalibrationError, MeanRecall, Ranking, Ratios

FACTS = {"model": "m", "data": "d", "split": "test", "seconds": 0.0, "skipped": []}
ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 3)), min_size=2, max_size=40)


def normal(count: int, seed: int, share: float = 0.3, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits: negatives are N(0, 1), positives N(shift, 1)."""
    random = np.random.default_rng(seed)
    target = random.random(count) < share
    return target, random.normal(size=count) + shift * target


def one_label(target: np.ndarray, logits: np.ndarray, threshold: float = 0.5, groups: Any = None) -> Any:
    """A result of these labels and logits, with its intervals."""
    task = MultiLabel(("ill",), thresholds=(threshold,))
    answers = torch.from_numpy(logits)[:, None], torch.from_numpy(target.astype(np.float32))[:, None]
    columns = [column.numpy() for column in (torch.arange(len(target)), *task.columns(*answers))]
    result, records = task.measure(columns, FACTS)
    return with_intervals(result, records, groups)


def two_classes(target: np.ndarray, logits: np.ndarray, positive: str | None = None) -> Any:
    task = SingleLabel(("no", "yes"), positive=positive)
    both = torch.stack((torch.zeros(len(logits), dtype=torch.float64), torch.from_numpy(logits)), 1)
    answers = both, torch.from_numpy(target.astype(np.int64))
    columns = [column.numpy() for column in (torch.arange(len(target)), *task.columns(*answers))]
    result, records = task.measure(columns, FACTS)
    return with_intervals(result, records)


@settings(max_examples=50)
@given(ROWS)
def test_areas_are_scikit_learns_to_1e_9_with_ties_and_weights(rows: list[tuple[bool, int, int]]) -> None:
    target, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    area, precision = areas(target, score.astype(float))
    if target.all() or not target.any():
        assert area is precision is None
        return
    assert area == pytest.approx(roc_auc_score(target, score), abs=1e-9)
    assert precision == pytest.approx(average_precision_score(target, score), abs=1e-9)
    ranking = Ranking(target, score.astype(float), np.ones(len(target), bool))
    plain, weighted = ranking(torch.from_numpy(np.stack((np.ones(len(target)), weight)).astype(float))).T.tolist()
    assert plain == pytest.approx([area, precision], abs=1e-9)
    kept = weight > 0
    if 0 < target[kept].sum() < kept.sum():
        given = {"y_true": target[kept], "y_score": score[kept], "sample_weight": weight[kept]}
        expected = [roc_auc_score(**given), average_precision_score(**given)]
        assert weighted == pytest.approx(expected, abs=1e-9)
    else:
        assert np.isnan(weighted[0])


@settings(max_examples=50)
@given(ROWS)
def test_every_other_metric_with_weights_is_that_of_repeated_images(rows: list[tuple[bool, int, int]]) -> None:
    right, confidence, weight = (np.array(column) for column in zip(*rows, strict=True))
    if not weight.any():
        return
    target = confidence % 3
    times = torch.from_numpy(weight[None].astype(float))
    again = np.repeat(np.arange(len(weight)), weight)
    share = confidence / 9
    error = CalibrationError(gaps(share, right), np.ones(len(weight)))(times).item()
    assert error == pytest.approx(expected_error(reliability(share[again], right[again]), len(again)), abs=1e-12)
    answers = np.where(right, target, target + 1)
    recall = MeanRecall(target, right)(times).item()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of answers that are no class of the sample
        assert recall == pytest.approx(balanced_accuracy_score(target[again], answers[again]), abs=1e-12)
    assert Ratios.of((right, np.ones(len(right))))(times).item() == pytest.approx(right[again].mean())


def test_the_bca_interval_is_scipys() -> None:
    """Of the mean of skewed numbers, where bias and acceleration matter; both draw at random."""
    numbers = np.random.default_rng(0).lognormal(sigma=1.0, size=60)
    found = bca(sampled({("mean",): Ratios.of((numbers, np.ones(60)))}, Units(60), resamples=20_000)["mean"])
    theirs = bootstrap((numbers,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    assert found == pytest.approx(list(theirs.confidence_interval), rel=0.02)


def test_wilsons_interval_is_scipys() -> None:
    for right, count in ((0, 10), (7, 10), (10, 10), (931, 1000)):
        theirs = binomtest(right, count).proportion_ci(0.95, method="wilson")
        assert wilson(right / count, count) == pytest.approx([theirs.low, theirs.high], abs=1e-12)


def test_copies_of_an_image_in_one_group_add_nothing() -> None:
    """Each image five times in its group: the interval of the groups is that of the images alone."""
    target, logits = normal(150, 3)
    alone = one_label(target, logits)
    groups = [f"patient {i}" for i in np.repeat(np.arange(150), 5)]
    copied = one_label(np.repeat(target, 5), np.repeat(logits, 5), groups=groups)
    taken_alone = one_label(np.repeat(target, 5), np.repeat(logits, 5))

    def width(result: Any, name: str) -> float:
        low, high = getattr(result, f"{name}_interval")
        return float(high - low)

    for name in ("auroc", "average_precision", "sensitivity", "specificity", "accuracy", "loss"):
        assert width(copied, name) == pytest.approx(width(alone, name), rel=0.1)
        assert width(taken_alone, name) < 0.6 * width(alone, name)


def test_the_same_question_has_the_same_answer() -> None:
    target, logits = normal(200, 4)
    assert one_label(target, logits) == one_label(target, logits)


def test_groups_of_one_image_are_images() -> None:
    target, logits = normal(80, 5)
    grouped = one_label(target, logits, groups=[str(i) for i in range(80)])
    alone = one_label(target, logits)
    assert grouped.sensitivity_interval == alone.sensitivity_interval


def test_every_metric_lies_in_its_interval() -> None:
    target, logits = normal(120, 6)
    for result in (one_label(target, logits), two_classes(target, logits)):
        found = result.intervals()
        names = ("auroc", "f1", "ece", "loss", "balanced_accuracy", "precision", "specificity")
        assert {f"{name}_interval" for name in names} <= set(found)
        for name, (low, high) in found.items():
            assert low <= getattr(result, name.removesuffix("_interval")) <= high, name
            assert low < high


def test_two_classes_are_measured_as_the_label_of_the_positive_class() -> None:
    target, logits = normal(120, 7)
    label, classes = one_label(target, logits), two_classes(target, logits)
    assert (classes.positive, label.positive) == ("yes", "ill")
    for name in ("auroc", "average_precision", "sensitivity", "specificity", "precision", "f1", "accuracy"):
        assert getattr(classes, name) == pytest.approx(getattr(label, name))
        assert getattr(classes, f"{name}_interval") == pytest.approx(getattr(label, f"{name}_interval"))
    turned = two_classes(target, logits, positive="no")
    assert turned.auroc == pytest.approx(label.auroc)
    assert (turned.sensitivity, turned.specificity) == pytest.approx((label.specificity, label.sensitivity))


def test_what_is_not_defined_has_no_interval() -> None:
    result = one_label(np.array([False] * 6), np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]))
    assert (result.precision, result.precision_interval) == (None, None)


def test_perfect_answers_do_not_have_a_certain_interval() -> None:
    """A bootstrap of what never varies would say [1, 1]."""
    target = np.arange(40) < 12
    result = one_label(target, np.where(target, 3.0, -3.0))
    assert result.auroc == result.sensitivity == 1
    expected = [binomtest(12, 12).proportion_ci(0.95, method="wilson").low, 1.0]
    assert result.auroc_interval == pytest.approx(expected)
    assert result.sensitivity_interval == pytest.approx(expected)
    assert result.average_precision_interval is None


def test_few_positives_or_negatives_or_groups_are_called_uncertain() -> None:
    target, logits = normal(200, 8)
    assert one_label(target, logits).cautions == []
    few = one_label(np.arange(200) < 19, logits)
    assert few.cautions == ["fewer than 20 positives, so that metrics are uncertain: ill 19"]
    assert one_label(np.arange(200) < 20, logits).cautions == []
    assert "fewer than 20 negatives" in one_label(np.arange(200) >= 19, logits).cautions[0]
    groups = [str(i % 9) for i in range(200)]
    assert "9 groups" in one_label(target, logits, groups=groups).cautions[0]


def test_labels_that_are_not_known_take_no_part() -> None:
    target, logits = normal(200, 9)
    labels = np.stack((target, target), 1).astype(np.float32)
    labels[150:, 1] = np.nan
    task = MultiLabel(("a", "b"))
    scores = torch.from_numpy(np.stack((logits, logits), 1))
    columns = [column.numpy() for column in (torch.arange(200), *task.columns(scores, torch.from_numpy(labels)))]
    both = with_intervals(*task.measure(columns, FACTS))
    part = one_label(target[:150], logits[:150])
    assert both.per_class[1]["sensitivity_interval"] == pytest.approx(part.sensitivity_interval)
    assert both.per_class[1]["auroc_interval"] == pytest.approx(part.auroc_interval, abs=0.02)
    low, high = both.auroc_interval
    assert low < both.auroc < high
    assert both.positive is both.threshold is None


def test_ten_thousand_images_take_a_few_seconds() -> None:
    target, logits = normal(10_000, 10)
    started = time.process_time()
    one_label(target, logits)
    assert time.process_time() - started < 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("count", "share", "shift"), [(200, 0.3, 1.5), (150, 0.3, 2.5)])
def test_intervals_of_95_percent_cover_93_to_97_percent(count: int, share: float, shift: float) -> None:
    """1,000 simulated test sets of a classifier whose metrics are known: of AUROC 0.86 and 0.96."""
    cut = shift / 2
    sensitivity, specificity = norm.sf(cut - shift), norm.cdf(cut)
    known = {
        "auroc": norm.cdf(shift / np.sqrt(2)),
        "sensitivity": sensitivity,
        "accuracy": share * sensitivity + (1 - share) * specificity,
    }
    threshold = 1 / (1 + np.exp(-cut))
    results = [one_label(*normal(count, seed, share, shift), threshold) for seed in range(1000)]
    for name, value in known.items():
        intervals = np.array([getattr(result, f"{name}_interval") for result in results])
        covered = ((intervals[:, 0] <= value) & (value <= intervals[:, 1])).mean()
        assert 0.93 <= covered <= 0.97, name


@pytest.mark.slow
def test_intervals_by_group_cover_where_those_by_image_do_not() -> None:
    """60 patients of 5 images that share the patient's label and half of the noise."""
    shift, covered = 1.5, {"groups": 0, "images": 0}
    for seed in range(400):
        random = np.random.default_rng(seed)
        target = np.repeat(random.random(60) < 0.5, 5)
        noise = np.repeat(random.normal(size=60), 5) + random.normal(size=300)
        logits = shift * target + noise / np.sqrt(2)
        groups = [str(i) for i in np.repeat(np.arange(60), 5)]
        for name, drawn in (("groups", groups), ("images", None)):
            low, high = one_label(target, logits, groups=drawn).auroc_interval
            covered[name] += low <= norm.cdf(shift / np.sqrt(2)) <= high
    assert 0.92 <= covered["groups"] / 400 <= 0.98
    assert covered["images"] / 400 < 0.85


def test_the_calibration_error_is_mirrored_and_holds_the_estimate() -> None:
    random = np.random.default_rng(0)
    share = random.random(300)
    right = random.random(300) < share  # calibrated: what is measured is noise
    found = sampled({("ece",): CalibrationError(gaps(share, right), np.ones(300))}, Units(300))["ece"]
    interval = basic(found)
    assert interval is not None
    assert found.replicates.mean() > found.estimate  # biased upwards
    assert 0 <= interval[0] < np.quantile(found.replicates, 0.025)
    assert interval[1] >= found.estimate
    assert basic(replace(found, replicates=found.replicates + 1)) == [0, found.estimate]
    assert replace(found, replicates=np.full(5, found.estimate)).constant
