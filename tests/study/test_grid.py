"""Grids: what people write becomes whole recipes, or one line that says what is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest

from densekit.config import DenseNetConfig
from densekit.errors import InvalidInput, ProofFailed, UnknownName
from densekit.models import config_for
from densekit.models.cost import cost_of, parameters_of
from densekit.study.builtin import BUILT_IN
from densekit.study.definition import Study, continued
from densekit.study.grid import Options, lay_out, read_grid, with_options
from densekit.study.size_matching import of_size
from tests.narrow import expect_type, not_none


def built(name: str, **options: Any) -> Study:
    return lay_out(BUILT_IN[name](Options(**options)))


def test_counting_parameters_is_counting_costs() -> None:
    config = config_for("densenet_c_22_7")
    assert parameters_of(config) == cost_of(config).parameters


@pytest.mark.parametrize("name", ["densenet_c_22_8", "densenet_bc_22_12"])
def test_no_neighbour_comes_nearer_to_the_wanted_size(name: str) -> None:
    """Those of the same depth and a third of the others, one by one."""
    wanted = 60_000
    found = of_size(name, wanted)
    variant, depth, _ = name.rsplit("_", 2)
    unit = 6 if "b" in variant.removeprefix("densenet") else 3
    misses = {
        candidate: abs(parameters_of(config_for(candidate)) - wanted)
        for d in range(int(depth) - 2 * unit, int(depth) + 2 * unit + 1, unit)
        if d >= unit + 4
        for k in range(2, 20, 3 if d != int(depth) else 1)
        for candidate in [f"{variant}_{d}_{k}"]
    }
    assert abs(parameters_of(config_for(found)) - wanted) <= min(misses.values())


def test_the_ablation_is_at_equal_parameters() -> None:
    study = built("ablation")
    counts = {name: parameters_of(arm.recipe.model) for name, arm in study.arms.items()}
    assert list(counts) == ["plain", "B", "C", "BC"]
    assert max(counts.values()) / min(counts.values()) < 1.03, counts
    models = {name: expect_type(arm.recipe.model, DenseNetConfig) for name, arm in study.arms.items()}
    assert {name: (m.bottleneck, m.compression < 1) for name, m in models.items()} == {
        "plain": (False, False),
        "B": (True, False),
        "C": (False, True),
        "BC": (True, True),
    }


@pytest.mark.parametrize("name", BUILT_IN)
def test_arms_differ_in_what_is_studied_alone(name: str) -> None:
    study = built(name, seeds=2)
    allowed = {"model": True, "epochs": name == "small-data", "data": name == "small-data"}
    first, *others = [arm.recipe.model_dump() for arm in study.arms.values()]
    for other in others:
        changed = {key for key in first if first[key] != other[key]}
        assert changed
        assert all(allowed.get(key) for key in changed)
    assert study.seeds == (0, 1)
    assert len(study.tasks()) == 2 * len(study.arms)
    named = {name for pair in study.comparisons for name in pair}
    assert named <= set(study.arms)


def test_small_data_has_equal_steps_and_parameters() -> None:
    study = built("small-data", limit=1600, epochs=3)
    recipes = {name: arm.recipe for name, arm in study.arms.items()}
    assert {not_none(r.data.limit) * r.epochs for r in recipes.values()} == {4800}
    assert {r.data.limit for r in recipes.values()} == {100, 400, 1600}
    counts = [parameters_of(recipe.model) for recipe in recipes.values()]
    assert max(counts) / min(counts) < 1.05
    assert all(not r.augment.flip and r.augment.crop == "none" for r in recipes.values())


def test_each_densenet_is_compared_with_the_nearest_of_either_family() -> None:
    study = built("efficiency")
    for dense, other in study.comparisons:
        family = study.arms[other].series
        wanted = parameters_of(study.arms[dense].recipe.model)
        ratios = {
            name: abs(parameters_of(arm.recipe.model) / wanted - 1)
            for name, arm in study.arms.items()
            if arm.series == family
        }
        # As a ratio, up or down.
        assert ratios[other] <= min(ratios.values()) * 1.5
    assert {study.arms[other].series for _, other in study.comparisons} == {"ResNet", "pre-activation ResNet"}


def test_the_command_line_changes_every_arm(grid: Path) -> None:
    given = Options(data="mnist", epochs=7, seeds=4, limit=99, settings={"optimizer.lr": "0.3"})
    study = lay_out(with_options(read_grid(grid), given))
    assert study.seeds == (0, 1, 2, 3)
    for arm in study.arms.values():
        recipe = arm.recipe
        assert (recipe.data.source, recipe.epochs, recipe.data.limit, recipe.optimizer.lr) == ("mnist", 7, 99, 0.3)
        assert recipe.batch_size == 50  # the grid's own


def test_what_a_grid_varies_cannot_be_set_over_its_head() -> None:
    with pytest.raises(InvalidInput, match=r"data\.limit is what small-data varies"):
        BUILT_IN["small-data"](Options(settings={"data.limit": "5"}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "needs `arms`"),
        ("arms: {}", "at least 1"),
        ("arms: {a: {model: densenet_40_12}}\ncompare: b", "names b, which is no arm"),
        ("arms: {a/b: {model: densenet_40_12}}", "a/b"),
        ("arms: {a: {model: densenet_40_12, epoch: 3}}", "epoch"),
        ("seeds: [1, 1]\narms: {a: {model: densenet_40_12}}", "named twice"),
        ("axis: size\narms: {a: {model: densenet_40_12}}", "needs an `at`"),
        ("settings: {seed: 3}\narms: {a: {model: densenet_40_12}}", "seed is no setting here"),
        ("arms: {a: [", "is not YAML"),
    ],
)
def test_a_faulty_grid_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=re.escape(words)) as error:
        read_grid(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arm", "kind", "words"),
    [
        ("{model: densnet_40_12}", UnknownName, "did you mean densenet_40_12"),
        ("{model: densenet_41_12}", InvalidInput, "does not divide"),
        ("{model: resnet_8, same_parameters_as: densenet_40_12}", InvalidInput, "leave out same_parameters_as"),
        ("{model: resnet_8, settings: {optimizer.lr: -1}}", InvalidInput, "arm a: invalid setting"),
    ],
)
def test_an_impossible_arm_is_one_line(tmp_path: Path, arm: str, kind: type[Exception], words: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f"arms: {{a: {arm}}}")
    with pytest.raises(kind, match=re.escape(words)):
        lay_out(read_grid(path))


def test_a_changed_arm_is_named_once_for_all(grid: Path, tmp_path: Path) -> None:
    before = lay_out(read_grid(grid))
    now = lay_out(with_options(read_grid(grid), Options(epochs=3)))
    with pytest.raises(ProofFailed, match=r"epochs: 2 -> 3 \(every arm\)"):
        continued(before, now, tmp_path)
    one = now.model_copy(update={"arms": before.arms | {"small": now.arms["small"]}})
    with pytest.raises(ProofFailed, match=r"epochs: 2 -> 3 \(arm small\)"):
        continued(before, one, tmp_path)


def test_more_seeds_and_other_arms_are_said_and_gone_on_with(grid: Path, tmp_path: Path) -> None:
    before = lay_out(read_grid(grid)).model_copy(update={"threads": 3})
    now = lay_out(with_options(read_grid(grid), Options(seeds=3)))
    fewer = now.model_copy(update={"arms": {name: arm for name, arm in now.arms.items() if name != "small"}})
    study, said = continued(before, fewer, tmp_path)
    assert said == ["no longer in the grid: 1 arm (small); runs are kept, not shown", "new in the grid: 1 seed (2)"]
    assert study.threads == 3  # as the runs that are there have
    assert study.seeds == (0, 1, 2)
