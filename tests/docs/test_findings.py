"""The numbers of docs/findings.md are those of results/findings, and what the studies told apart is told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from densekit.analysis.gradients import Flow
from densekit.study.report_page import spread
from densekit.study.statistics import Summary

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
FOUND = {path.stem: json.loads(path.read_text()) for path in (ROOT / "results" / "findings").glob("*.json")}
STUDIES = [name for name in FOUND if name.startswith("study-")]


def rows() -> list[tuple[str, ...]]:
    """Of all tables."""
    lines = re.findall(r"^\|(.*)\|$", PAGE, re.MULTILINE)
    return [tuple(cell.strip() for cell in line.split("|")) for line in lines]


def test_there_are_studies() -> None:
    assert {"study-efficiency", "study-ablation", "study-small-data"} <= set(STUDIES)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_arm_is_told_with_its_error(name: str) -> None:
    for arm in FOUND[name]["arms"]:
        row = next(row for row in rows() if row[0] == arm["name"])
        assert row[1:4] == (f"{arm['parameters']:,}", f"{arm['macs'] / 1e6:.1f} M", spread(Summary(**arm["error"])))


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_difference_that_was_found_is_told(name: str) -> None:
    """And of how many comparisons."""
    comparisons: list[dict[str, Any]] = FOUND[name]["comparisons"]
    told = [each for each in comparisons if each["verdict"] != "not told apart"]
    section = next(part for part in PAGE.split("\n## ") if f"{name}.json" in part)
    assert f"{len(told)} of {len(comparisons)} comparisons" in section
    for each in told:
        low, high = sorted(abs(100 * each[end]) for end in ("low", "high"))
        way = "less" if each["mean"] < 0 else "more"
        points = f"{abs(100 * each['mean']):.2f} points (95 % interval {low:.2f} to {high:.2f})"
        assert f"{each['first']} {way} than {each['second']}: {points}" in " ".join(section.split())


def test_what_is_said_of_the_shipped_network_is_so() -> None:
    found = FOUND["analysis-shipped"]
    weight, cut = ({each["key"]: each for each in found["observations"][form]} for form in ("weight", "ablation"))
    early, transition = weight["early_use"], weight["transition_spread"]
    assert f"from {early['untrained']:.2f} to {early['mean']:.2f}" in TEXT
    assert f"{transition['untrained']:.2f} before, {transition['mean']:.2f} after" in TEXT
    assert f"(effectively {cut['transition_spread']['mean']:.2f} of them; by weight {transition['mean']:.2f})" in TEXT
    least, late = weight["least_to_transition"], weight["late_in_classifier"]
    assert f"{least['mean']:.0%} of the layers, {least['untrained']:.0%} before".replace("%", " %") in TEXT
    assert f"{late['mean']:.1f} times the weight on the last third, {late['untrained']:.2f} before" in TEXT
    edges = found["edges"]
    assert f"{edges['missed']} of {len(edges['ranking'])} are missed" in TEXT
    order = edges["curves"][0]
    whole, eight, thirteen = (100 * order["error"][order["removed"].index(count)] for count in (0, 8, 13))
    assert f"8 can be removed together for a rise of the error from {whole:.1f} to {eight:.1f} %" in TEXT
    assert f"The next five raise it to {thirteen:.0f} %" in TEXT
    probe = dict(zip(found["probes"][0]["depths"], found["probes"][0]["accuracy"], strict=True))
    first, second, third = (100 * probe[f"block {block}, layer 6"] for block in (1, 2, 3))
    assert f"reaches {first:.0f} % at the end of the first block" in TEXT
    assert f"{second:.0f} % at the end of the second and {third:.0f} % at the end of the last" in TEXT


def test_what_is_said_of_gradients_and_maps_is_so() -> None:
    flows = [Flow(**flow) for name in ("analysis-seeds", "analysis-shipped") for flow in FOUND[name]["gradients"]]
    reach = {(flow.network, flow.state): f"{flow.reach:.1f}" for flow in flows}
    small, large = ("densenet_bc_22_16", "resnet_20"), ("densenet_bc_40_12", "resnet_38")
    assert f"{small[0]} has {reach[small[0], 'untrained']} and {small[1]} {reach[small[1], 'untrained']}" in TEXT
    assert f"{large[0]} has {reach[large[0], 'untrained']} and {large[1]} {reach[large[1], 'untrained']}" in TEXT
    assert f"the first pair has {reach[small[0], 'trained']} and {reach[small[1], 'trained']}" in TEXT
    maps = [item for name in ("analysis-seeds", "analysis-shipped") for item in FOUND[name]["maps"]["items"]]
    assert all(item["follows"] for item in maps)
    agreement = [item["correlation"] for item in maps]
    assert f"rank correlation {min(agreement):.2f} to {max(agreement):.2f} over both" in TEXT
