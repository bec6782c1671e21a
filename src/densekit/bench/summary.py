"""Many times of many variants -> a row for each contender."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from densekit.bench.backends import BenchBackend


def summarise(
    answer: Mapping[str, Any], contenders: Sequence[BenchBackend], *, flops: int, batch: int
) -> list[dict[str, Any]]:
    """A row for each contender, in their order, of the layout in which it is best.

    `flops` are those of one image, and count the published network for everybody: who saves arithmetic is faster.
    """
    rows = []
    for contender in contenders:
        variants = [variant for variant in answer["variants"] if variant["name"] == contender.name]
        measured = [_measured(variant) for variant in variants if variant["status"] == "measured"]
        row: dict[str, Any] = {"name": contender.name, "ours": contender.ours, "runtime": contender.runtime}
        if not measured:
            rows.append(row | {"status": variants[0]["status"], "reason": variants[0]["reason"], "variants": variants})
            continue
        best = min(measured, key=lambda variant: variant["value"])
        row |= {"status": "measured", **{key: value for key, value in best.items() if key != "times"}}
        row |= {"layouts_tried": [variant["layout"] for variant in measured]}
        if "times" in best:
            row["flops_per_second"] = flops * batch / best["value"]
            row["share_of_peak"] = row["flops_per_second"] / answer["peak_flops"]
        rows.append(row | {"variants": variants})
    peers = [row["value"] for row in rows if not row["ours"] and row["status"] == "measured"]
    for row in rows:
        if row["status"] == "measured":
            row["relative_to_best_peer"] = row["value"] / min(peers) if peers else None
    return rows


def _measured(variant: Mapping[str, Any]) -> dict[str, Any]:
    """With what counts as `value`: seconds, or bytes at the peak."""
    kept = {key: value for key, value in variant.items() if key not in ("name", "status")}
    if "times" not in variant:
        return kept | {"value": variant["peak_bytes"]}
    lower, middle, upper = (float(q) for q in np.percentile(variant["times"], (25, 50, 75)))
    return kept | {"value": middle, "quartiles": [lower, upper]}
