"""The plan of a run is measured once, kept, and recorded."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import densekit
from densekit import ops
from densekit.data.sets import FileImages
from densekit.errors import BadData
from densekit.models.cost import cost_of
from densekit.training import plan_selection
from densekit.training.compose import compose
from densekit.training.run_estimate import estimate_run
from densekit.training.setup import TrainContext, prepare
from tests.narrow import expect_type


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "densekit" / "plans"


def small_run(folder: Path, **settings: object) -> dict[str, object]:
    run = densekit.train("digits", epochs=1, out=folder, settings={"data.limit": 64, **settings})
    return yaml.safe_load((run.folder / "config.yaml").read_text())


def test_a_run_records_the_plan_and_the_kernels(tmp_path: Path, cache: Path) -> None:
    recorded = small_run(tmp_path / "run")["plan"]
    (kept,) = (json.loads(file.read_text()) for file in cache.iterdir())
    assert set(kept) == {"concat", "shared"}
    assert recorded in kept
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["kernels"] == ops.kernels()
    assert environment["threads"] >= 1


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small_run(tmp_path / "one")["plan"]
    monkeypatch.setattr(plan_selection, "_seconds_per_image", None)
    assert small_run(tmp_path / "two")["plan"] == first


def test_a_named_plan_is_kept(tmp_path: Path) -> None:
    assert small_run(tmp_path / "run", plan="checkpoint")["plan"] == "checkpoint"


@pytest.mark.parametrize("content", ["", "[]", '{"shared": "x"}', "{", "null"])
def test_a_damaged_cache_is_measured_again(tmp_path: Path, cache: Path, content: str) -> None:
    small_run(tmp_path / "one")
    (file,) = cache.iterdir()
    file.write_text(content)
    assert small_run(tmp_path / "two")["plan"] in {"concat", "shared"}
    assert set(json.loads(file.read_text())) == {"concat", "shared"}


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each plan is said to take."""
    seconds = {"concat": 3.0, "shared": 1.0, "checkpoint": 4.0}

    def measured(prepared: TrainContext, images: torch.Tensor, plans: Sequence[str]) -> dict[str, float]:
        return {plan: seconds[plan] for plan in plans}

    monkeypatch.setattr(plan_selection, "_seconds_per_image", measured)
    return seconds


def test_the_fastest_is_taken_if_it_fits(tmp_path: Path, times: dict[str, float]) -> None:
    assert small_run(tmp_path / "fast")["plan"] == "shared"
    times["shared"] = 2.95  # within the noise
    assert small_run(tmp_path / "equal", batch_size=32)["plan"] == "concat"


def test_checkpoint_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_selection, "_fits", lambda saved, room: False)
    assert small_run(tmp_path / "run")["plan"] == "checkpoint"


def test_what_fits_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: dict[str, float]) -> None:
    """Memory comes and goes; seconds that were measured stay true."""
    with monkeypatch.context() as full:
        full.setattr(plan_selection, "_fits", lambda saved, room: False)
        assert small_run(tmp_path / "full")["plan"] == "checkpoint"
    assert small_run(tmp_path / "free")["plan"] == "shared"
    with monkeypatch.context() as full:
        full.setattr(plan_selection, "_fits", lambda saved, room: False)
        times.clear()
        assert small_run(tmp_path / "full again")["plan"] == "checkpoint"


def test_in_lower_precision_a_plan_that_would_run_concat_is_not_measured(
    tmp_path: Path, cache: Path, times: dict[str, float]
) -> None:
    assert small_run(tmp_path / "run", precision="bfloat16")["plan"] == "concat"
    (kept,) = (json.loads(file.read_text()) for file in cache.iterdir())
    assert set(kept) == {"concat"}


def test_a_device_that_would_only_be_asked_to_queue_is_not_measured(tmp_path: Path) -> None:
    recipe = compose("digits", epochs=1, settings={"data.limit": 64})
    prepared = prepare(recipe, tmp_path)
    assert plan_selection._plans(prepared)[0] == ("concat", "shared")
    assert plan_selection._plans(replace(prepared, device=torch.device("mps")))[0] == ("concat",)


def test_two_runs_that_write_at_once_lose_nothing(cache: Path) -> None:
    plan_selection._remember("one", {"concat": 1.0})
    plan_selection._remember("two", {"shared": 2.0})
    assert plan_selection._recall("one") == {"concat": 1.0}
    assert plan_selection._recall("two") == {"shared": 2.0}


GIB = 1 << 30


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": 3 * GIB, "memory.current": 2 * GIB, "memory.stat": "anon 5"}, GIB),
        ({"memory.max": "max", "memory.current": 2 * GIB, "memory.stat": ""}, math.inf),
        (
            {"memory.max": 3 * GIB, "memory.current": 3 * GIB, "memory.stat": f"anon 5\ninactive_file {2 * GIB}"},
            2 * GIB,
        ),
        (
            {
                "memory/memory.limit_in_bytes": 4 * GIB,
                "memory/memory.usage_in_bytes": GIB,
                "memory/memory.stat": "total_inactive_file 7",
            },
            3 * GIB + 7,
        ),
        ({}, math.inf),
    ],
)
def test_a_container_has_what_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, Any], left: float
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    monkeypatch.setattr(plan_selection, "_CONTROL", tmp_path)
    monkeypatch.setattr(plan_selection, "_free", lambda: math.inf)
    assert plan_selection.room(torch.device("cpu")) == left


def test_the_reason_names_all_other_plans() -> None:
    """Also one that took exactly as long."""
    assert (
        plan_selection.Choice("concat", {"concat": 1.0, "shared": 1.0}, 0).reason() == "shared took 1.0 times as long"
    )


def test_a_first_batch_without_a_readable_image_is_passed_over(photos: Path, tmp_path: Path) -> None:
    settings = {"data.image_size": 16, "batch_size": 2, "data.max_bad": 2}
    prepared = prepare(compose(str(photos), model="densenet_bc_10_4", settings=settings), tmp_path)
    train = expect_type(prepared.data.splits["train"], FileImages)
    for i in next(prepared.loader("train", prepared.recipe.augment).epoch(0)).samples.tolist():
        train.paths[i].write_bytes(b"no picture")
    assert len(plan_selection._first_images(prepared, macs=1_000_000)) == 2
    for path in train.paths:
        path.write_bytes(b"no picture")
    with pytest.raises(BadData, match="none of the training images"):
        plan_selection._first_images(prepared, macs=1_000_000)


def test_small_images_of_a_growing_run_are_expected_to_take_less_time(tmp_path: Path) -> None:
    seconds = []
    for resize in ([], [[0.0, 4], [0.5, 8]]):
        prepared = prepare(compose("digits", epochs=4, settings={"resize": resize}), tmp_path)
        assert prepared.model.config.image_size == (8, 8)
        measured = plan_selection.Choice("concat", {"concat": 1.0}, 0)
        seconds.append(estimate_run(prepared, measured, cost_of(prepared.recipe.model)).seconds)
        counts = {name: len(images) for name, images in prepared.data.splits.items()}
    evaluation = (4 * counts["val"] + counts["test"]) / 3
    assert seconds == pytest.approx([4 * counts["train"] + evaluation, 2.5 * counts["train"] + evaluation])


def test_memory_is_of_the_images_that_are_computed_at_once(tmp_path: Path) -> None:
    """Not of a batch larger than the data, nor of all pieces of an accumulated one."""

    def predicted(**settings: object) -> int:
        recipe = compose("digits", epochs=1, settings={"data.limit": 64, "plan": "concat", **settings})
        return plan_selection.choose(prepare(recipe, tmp_path), cost_of(recipe.model).macs)[1].memory

    whole = predicted(batch_size=64)
    assert predicted(batch_size=100_000) == whole
    assert predicted(batch_size=64, accumulate=4) == whole / 4


SECONDS = st.floats(0.001, 10)


@settings(max_examples=50)
@given(
    true=st.tuples(SECONDS, SECONDS),
    load=st.lists(st.tuples(SECONDS, SECONDS), min_size=3, max_size=3),
    quiet=st.integers(1, 3),
)
def test_one_quiet_round_is_enough(true: tuple[float, float], load: list[tuple[float, float]], quiet: int) -> None:
    """Load adds time to a step. Where it leaves out one of the rounds that count, the least time is the true one."""
    rounds = [(5.0, 5.0), *load, *[(5.0, 5.0)] * plan_selection._MOST_ROUNDS]
    rounds[quiet] = (0.0, 0.0)
    made = {name: iter([true[i] + each[i] for each in rounds]) for i, name in enumerate(("concat", "shared"))}
    assert plan_selection.shortest({name: times.__next__ for name, times in made.items()}) == {
        "concat": true[0],
        "shared": true[1],
    }


def test_a_burst_of_load_meets_both_plans() -> None:
    """One after the other, the plan whose steps it covers would look slower, whichever that is."""
    clock = [0.0]

    def step(seconds: float) -> float:
        slowed = seconds * (8 if 4 < clock[0] < 12 else 1)
        clock[0] += slowed
        return slowed

    found = plan_selection.shortest({"concat": lambda: step(1.0), "shared": lambda: step(0.6)})
    assert found == {"concat": 1.0, "shared": 0.6}


def test_short_steps_are_repeated_and_long_ones_are_not() -> None:
    counted = {0.001: 0, 5.0: 0}
    for seconds in counted:

        def step(seconds: float = seconds) -> float:
            counted[seconds] += 1
            return seconds

        plan_selection.shortest({"concat": step})
    assert counted == {0.001: plan_selection._MOST_ROUNDS, 5.0: plan_selection._ROUNDS}
