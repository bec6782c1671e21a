"""95 % intervals for the metrics of a result, from the records of its images.

Shares of independent images, such as accuracy and sensitivity, have Wilson's interval (1927): it holds its level where
the share is near 1 or the images are few, where a bootstrap is too narrow. All other metrics, and shares of images in
groups, have the bootstrap's, by group where there are groups: BCa, as percentiles are too narrow where AUROC is near 1.

Shapes: N images, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densekit.metrics import binary, bootstrap
from densekit.metrics.bootstrap import Interval, Sampled, Statistic, Units, sampled
from densekit.metrics.calibration import gaps
from densekit.metrics.multi_label import MultiLabelRecords, MultiLabelResult
from densekit.metrics.single_label import Records, Result
from densekit.metrics.weighted import CalibrationError, MeanRecall, Ranking, Ratios

Shares = Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]
"""By name (N,) twice: which images are right, and of which."""
_Statistics = dict[tuple[str, ...], Statistic]
_METRICS = ("auroc", "average_precision", *binary.RATES)
_MOST_CLASSES = 100
"""Beyond them, the rows of classes have no intervals where there are groups."""


def with_intervals(result: Any, records: Any, groups: Sequence[str] | None = None) -> Any:
    """A result with an interval for each metric, and a caution where few groups stand behind them.

    Args:
        result: Of either task, of `records`.
        records: One row an image.
        groups: The group of each image of the split, which `records.sample` counts; none: each image by itself.
    """
    own = None if groups is None else [groups[sample] for sample in records.sample.tolist()]
    units = Units(len(records.sample), own)
    found = (_of_labels if isinstance(result, MultiLabelResult) else _of_one)(result, records, units)
    few = [] if own is None else binary.caution_of_groups(units.count)
    return replace(result, **found, cautions=[*result.cautions, *few])


def _of_one(result: Result, records: Records, units: Units) -> dict[str, Any]:
    """Of one class an image."""
    right, every = records.predicted == records.target, np.ones(units.images, bool)
    shares = {"top1": (right, every)}
    if len(result.per_class) > 5:
        shares["top5"] = (records.rank < 5, every)
    statistics: _Statistics = {
        ("loss",): Ratios.of((records.loss, every)),
        ("ece",): CalibrationError(gaps(records.confidence, right), every.astype(np.float64)),
    }
    if result.positive is None or records.score is None:
        statistics["balanced_accuracy",] = MeanRecall(records.target, right)
        found = sampled(statistics, units)
        intervals = {"balanced_accuracy_interval": bootstrap.bca(found["balanced_accuracy"])}
    else:
        positive = [row["class"] for row in result.per_class].index(result.positive)
        target, score = records.target == positive, records.score[:, positive]
        label = _Label(target, score, every, result.threshold or 0.0)
        found = sampled(statistics | label.statistics(""), units)
        intervals = label.intervals(found, "", units)
    return {
        **intervals,
        **_of_shares(shares, units),
        "loss_interval": bootstrap.bca(found["loss"]),
        "ece_interval": bootstrap.basic(found["ece"]),
        "per_class": _rows(result, records, units),
    }


def _rows(result: Result, records: Records, units: Units) -> list[dict[str, Any]]:
    """Of each class, with intervals of its precision and recall."""
    if units.independent:
        return _counted_rows(result.per_class, records)
    if len(result.per_class) > _MOST_CLASSES:
        return result.per_class
    shares: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}
    for i, row in enumerate(result.per_class):
        target, predicted = records.target == i, records.predicted == i
        for name, of in (("precision", predicted), ("recall", target)):
            if row[name] is not None:
                shares[f"{i} {name}"] = (target & predicted, of)
    found = _of_shares(shares, units)
    return [
        row | {f"{name}_interval": found.get(f"{i} {name}_interval") for name in ("precision", "recall")}
        for i, row in enumerate(result.per_class)
    ]


def _counted_rows(rows: Sequence[dict[str, Any]], records: Records) -> list[dict[str, Any]]:
    """The same of independent images, for which counts are enough, however many classes there are."""
    count = len(rows)
    hits = np.bincount(records.target[records.target == records.predicted], minlength=count)
    of = {
        "precision": np.bincount(records.predicted, minlength=count),
        "recall": np.bincount(records.target, minlength=count),
    }

    def interval(name: str, i: int) -> Interval | None:
        cases = int(of[name][i])
        return bootstrap.wilson(float(hits[i] / cases), cases) if rows[i][name] is not None else None

    return [row | {f"{name}_interval": interval(name, i) for name in of} for i, row in enumerate(rows)]


def _of_labels(result: MultiLabelResult, records: MultiLabelRecords, units: Units) -> dict[str, Any]:
    """Of any number of labels an image."""
    known = ~np.isnan(records.target)
    labels = {
        f"{i} ": _Label(records.target[:, i] == 1, records.score[:, i], known[:, i], row["threshold"])
        for i, row in enumerate(result.per_class)
    }
    counts = known.sum(1)
    statistics: _Statistics = {
        ("loss",): Ratios.of((np.nansum(records.loss, 1), counts)),
        ("ece",): CalibrationError(gaps(records.score, records.target == 1, known), counts.astype(np.float64)),
    }
    for prefix, label in labels.items():
        statistics |= label.statistics(prefix)
    found = sampled(statistics, units)
    own = [label.intervals(found, prefix, units) for prefix, label in labels.items()]
    return {
        **(own[0] if len(own) == 1 else _of_means(found, labels)),
        "loss_interval": bootstrap.bca(found["loss"]),
        "ece_interval": bootstrap.basic(found["ece"]),
        "per_class": [row | intervals for row, intervals in zip(result.per_class, own, strict=True)],
    }


def _of_means(found: Mapping[str, Sampled], labels: Mapping[str, "_Label"]) -> dict[str, Interval | None]:
    """Of the means over the labels."""
    intervals = {}
    for name in _METRICS:
        several = [each for prefix, label in labels.items() if (each := label.sampled(found, prefix, name)) is not None]
        intervals[f"{name}_interval"] = bootstrap.bca(Sampled.mean(several)) if several else None
    return intervals


class _Label:
    """One label: which images have it, are known, and are taken to have it."""

    def __init__(
        self, target: NDArray[np.bool_], score: NDArray[np.float64], known: NDArray[np.bool_], threshold: float
    ) -> None:
        self.target, self.score, self.known = target, score, known
        taken, there, absent = known & (score >= threshold), known & target, known & ~target
        shares = {
            "sensitivity": (taken & there, there),
            "specificity": (absent & ~taken, absent),
            "precision": (taken & there, taken & there.any()),
            "accuracy": (known & (taken == target), known),
        }
        self.shares = {name: pair for name, pair in shares.items() if pair[1].any()}
        self.ranked = bool(there.any() and absent.any())
        self.ratios: dict[str, tuple[NDArray[Any], NDArray[Any]]] = dict(self.shares)
        if there.any():
            self.ratios["f1"] = (2.0 * (taken & there), taken.astype(np.float64) + there)
        self.fewer = min(there, absent, key=np.count_nonzero)

    def statistics(self, prefix: str) -> _Statistics:
        """What is to be resampled, under names that begin with `prefix`."""
        names = tuple(f"{prefix}{name}" for name in self.ratios)
        found: _Statistics = {names: Ratios.of(*self.ratios.values())} if names else {}
        if self.ranked:
            areas = (f"{prefix}auroc", f"{prefix}average_precision")
            found[areas] = Ranking(self.target, self.score, self.known)
        return found

    @staticmethod
    def sampled(found: Mapping[str, Sampled], prefix: str, name: str) -> Sampled | None:
        """A metric, if it is defined."""
        if name != "balanced_accuracy":
            return found.get(f"{prefix}{name}")
        both = [found.get(f"{prefix}{share}") for share in ("sensitivity", "specificity")]
        there = [each for each in both if each is not None]
        return Sampled.mean(there) if len(there) == 2 else None

    def intervals(self, found: Mapping[str, Sampled], prefix: str, units: Units) -> dict[str, Interval | None]:
        """Of each metric of the label."""
        return {f"{name}_interval": self._interval(found, prefix, name, units) for name in _METRICS}

    def _interval(self, found: Mapping[str, Sampled], prefix: str, name: str, units: Units) -> Interval | None:
        metric = self.sampled(found, prefix, name)
        if metric is None:
            return None
        if name in self.shares:
            return _of_share(metric, self.shares[name][1], units)
        if metric.constant and name == "auroc":
            # So many pairs of a positive and a negative are independent, and all are in order.
            return bootstrap.wilson(metric.estimate, units.holding(self.fewer))
        return bootstrap.bca(metric)


def _of_shares(shares: Shares, units: Units) -> dict[str, Interval | None]:
    if units.independent:
        return {
            f"{name}_interval": bootstrap.wilson(float(right[of].mean()), int(of.sum()))
            for name, (right, of) in shares.items()
        }
    found = sampled({tuple(shares): Ratios.of(*shares.values())}, units) if shares else {}
    return {f"{name}_interval": _of_share(found[name], shares[name][1], units) for name in shares}


def _of_share(metric: Sampled, of: NDArray[np.bool_], units: Units) -> Interval | None:
    """Wilson's where images are independent, or where resamples do not vary: of as many cases as there are units."""
    if units.independent or metric.constant:
        return bootstrap.wilson(min(1.0, metric.estimate), units.holding(of))
    return bootstrap.bca(metric)
