"""What `train` decides where the user did not: by facts alone, with a reason each, and nothing that the user set."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import densekit
from densekit.cli.main import status_of
from densekit.config import with_settings
from densekit.data.native_size import NativeSize
from densekit.data.prepare import resize_for
from densekit.errors import InvalidInput
from densekit.models import config_for
from densekit.recipes import recipe_for
from densekit.training.compose import compose
from densekit.training.defaults import decide
from densekit.training.facts import FEW, SMALL, Facts, Given, Weights
from densekit.training.request import given_by
from densekit.training.train import train_recipe
from tests.conftest import write_photos

IMAGENET = Weights("torchvision:densenet121", config_for("densenet121"), "trained on ImageNet's photographs")
SHIPPED = Weights("cifar10", config_for("densenet_bc_100_12"), "trained on CIFAR-10's pictures")
GIB = float(1 << 30)


def facts(images: int = 600, shorter: int = 192, *weights: Weights, **changes: Any) -> Facts:
    """Of colour photographs, on two cores."""
    size = NativeSize(shorter, shorter, shorter, colour=True)
    made = Facts(images, 10, size, cores=2, memory=16 * GIB, cuda=False, weights=weights)
    return replace(made, **changes)


def values(found: Facts, given: Given = Given()) -> dict[str, str]:  # noqa: B008 - it is frozen
    return {decision.name: decision.value for decision in decide(found, given).reasons}


def chosen(**keys: Any) -> Given:
    """What `train` is given by settings alone; `__` stands for the dot in a key."""
    own = {key.replace("__", "."): value for key, value in keys.items()}
    return given_by(None, None, own, with_settings(recipe_for("quick", "photos"), own))


def test_few_photos_start_from_imagenets_weights() -> None:
    found = values(facts(600, 192, IMAGENET, SHIPPED))
    assert found["weights"] == "torchvision:densenet121"
    assert found["model"] == "densenet121"
    assert found["recipe"] == "finetune"


def test_the_body_learns_more_slowly_than_the_head_and_warms_up() -> None:
    decided = decide(facts(600, 192, IMAGENET), Given())
    recipe = with_settings(recipe_for(decided.recipe, "photos", decided.model), decided.settings)
    assert recipe.optimizer.body_lr < 1
    assert recipe.schedule.warmup > 0
    assert recipe.schedule.name == "cosine"


def test_few_photos_without_network_start_from_the_shipped_net() -> None:
    found = decide(facts(600, 192, SHIPPED, missing="download X and put it at Y"), Given())
    reasons = {decision.name: decision for decision in found.reasons}
    assert reasons["weights"].value == "cifar10"
    assert "download X and put it at Y" in reasons["weights"].reason
    assert reasons["model"].value == "densenet_bc_100_12"
    assert reasons["size"].value == "64 px"


def test_few_photos_without_any_weights_get_a_small_net_that_two_cores_can_train() -> None:
    found = decide(facts(missing="download X and put it at Y"), Given())
    reasons = {decision.name: decision for decision in found.reasons}
    assert reasons["weights"].value == "none"
    assert "download X and put it at Y" in reasons["weights"].reason
    assert reasons["model"].value == "densenet_bc_40_12"
    assert reasons["size"].value == "64 px"
    assert found.settings["optimizer.lr"] <= 0.1


def test_many_photos_are_learned_from_scratch() -> None:
    found = values(facts(FEW, 500, IMAGENET, SHIPPED, cuda=True))
    assert found["weights"] == "none"
    assert found["recipe"] == "quick"
    assert found["model"] == "densenet121"
    assert found["size"] == "224 px"


@pytest.mark.parametrize(("shorter", "side"), [(28, 28), (32, 32), (45, 44), (64, 64)])
def test_small_pictures_keep_their_size_under_a_cifar_stem(shorter: int, side: int) -> None:
    found = values(facts(60_000, shorter, IMAGENET))
    assert found["size"] == f"{side} px"
    assert found["model"].startswith("densenet_bc_")


def test_small_pictures_in_colour_start_from_the_shipped_net_where_they_are_few() -> None:
    assert values(facts(500, 32, SHIPPED))["weights"] == "cifar10"
    assert values(facts(60_000, 32, SHIPPED))["weights"] == "none"


@settings(max_examples=40)
@given(
    images=st.integers(2, 10**7),
    shorter=st.sampled_from([8, 9, 28, 45, 64, 65, 95, 97, 110, 192, 255, 256, 4000]),
    cores=st.integers(1, 64),
    cuda=st.booleans(),
    memory=st.floats(GIB, 1000 * GIB),
    weights=st.sampled_from([(), (IMAGENET,), (SHIPPED,), (IMAGENET, SHIPPED)]),
    name=st.sampled_from([None, "densenet_bc_22_12", "resnet_20"]),
)
def test_no_default_scales_pictures_up(
    images: int, shorter: int, cores: int, cuda: bool, memory: float, weights: tuple[Weights, ...], name: str | None
) -> None:
    """But for the least sizes that a net takes."""
    found = facts(images, shorter, *weights, cores=cores, cuda=cuda, memory=memory)
    decided = decide(found, Given(model=config_for(name) if name else None))
    (side, _) = decided.settings["data.image_size"]
    assert side <= max(shorter, SMALL if shorter > SMALL else 32 if decided.model == IMAGENET.model else 8)
    if shorter >= 96:
        assert resize_for((side, side)) <= shorter
    assert all(decision.reason for decision in decided.reasons)
    recipe = with_settings(recipe_for(decided.recipe, "photos", decided.model), decided.settings)
    assert recipe.epochs > 0


KEYS = {
    "epochs": 3,
    "batch_size": 16,
    "optimizer.lr": 0.01,
    "data.image_size": (48, 48),
    "divergence.growth": None,
    "divergence.rollbacks": 0,
}


@settings(max_examples=20)
@given(keys=st.sets(st.sampled_from(sorted(KEYS))), weights=st.sampled_from([(), (IMAGENET,)]))
def test_what_the_user_set_is_never_decided(keys: set[str], weights: tuple[Weights, ...]) -> None:
    decided = decide(facts(600, 192, *weights), chosen(**{key.replace(".", "__"): KEYS[key] for key in keys}))
    assert not keys & decided.settings.keys()
    names = {decision.name for decision in decided.reasons}
    for key, name in (
        ("epochs", "epochs"),
        ("batch_size", "batch"),
        ("optimizer.lr", "rate"),
        ("data.image_size", "size"),
    ):
        assert (name in names) is (key not in keys)


def test_a_rate_of_the_users_own_is_not_lowered_behind_their_back() -> None:
    assert "divergence.rollbacks" in decide(facts(), Given()).settings
    assert "divergence.rollbacks" not in decide(facts(), Given(keys=frozenset({"optimizer.lr"}))).settings


@pytest.mark.parametrize(
    ("batch", "optimizer", "weights", "rate", "reason"),
    [
        ("256", "sgd", (), 0.4, "the highest of the cycle, for batches of 256"),
        ("4", "sgd", (), 0.00625, "the highest of the cycle, for batches of 4"),
        ("4", "adamw", (), 1e-3, "the highest of the cycle; usual for AdamW with batches of any size"),
        ("64", "sgd", (IMAGENET,), 0.1, "of the head, which may be new; 0.2 of it for all else, which is trained"),
        (
            "64",
            "adamw",
            (IMAGENET,),
            1e-4,
            "of the head, which may be new; 0.2 of it for all else, which is trained; usual for AdamW with batches of "
            "any size",
        ),
    ],
)
def test_the_rate_is_for_the_batch_and_the_optimizer_that_the_user_set(
    batch: str, optimizer: str, weights: tuple[Weights, ...], rate: float, reason: str
) -> None:
    decided = decide(facts(600, 192, *weights), chosen(batch_size=batch, optimizer__name=optimizer))
    assert decided.settings["optimizer.lr"] == pytest.approx(rate)
    (said,) = (decision.reason for decision in decided.reasons if decision.name == "rate")
    assert said == reason


def test_init_none_trains_from_scratch_whatever_there_is() -> None:
    found = values(facts(600, 192, IMAGENET), Given(init="none"))
    assert "weights" not in found
    assert found["recipe"] == "quick"


def test_a_recipe_by_name_keeps_its_own_training() -> None:
    decided = decide(facts(60_000, 32), Given(recipe="c10+", model=config_for("densenet_bc_100_12")))
    assert {decision.name for decision in decided.reasons} == {"size"}
    assert decided.settings == {"data.image_size": (32, 32)}


def test_a_recipe_by_name_is_not_made_smaller_to_save_time() -> None:
    """The paper's ImageNet recipe is one at 224 pixels on any machine."""
    slow = facts(1_281_167, 400, cores=1)
    assert values(slow, Given(recipe="imagenet"))["size"] == "224 px"
    assert values(slow, Given(recipe="modern"))["size"] == "224 px"
    small = decide(facts(50_000, 32), Given(recipe="modern"))
    assert small.settings["resize"] == ()


def test_weights_of_another_network_than_the_users_are_not_taken() -> None:
    found = values(facts(600, 192, IMAGENET, SHIPPED), Given(model=config_for("densenet_bc_40_12")))
    assert found["weights"] == "none"


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"dropout_rate": 0.2, "num_classes": 3}, True),
        ({"growth_rate": 24}, False),
        ({"transition_relu": False}, False),
    ],
)
def test_weights_are_taken_by_a_network_that_they_fit(changes: dict[str, Any], taken: bool) -> None:
    """Not by the name alone: loading them would fail, or compute something else."""
    changed = config_for("densenet_bc_100_12").model_copy(update=changes)
    assert (values(facts(600, 32, SHIPPED), Given(model=changed))["weights"] == "cifar10") is taken


def test_settings_of_the_network_that_the_weights_do_not_fit_train_from_scratch_and_the_plan_says_so() -> None:
    """They could not be loaded into the network that comes out."""
    given = chosen(model__growth_rate="24", model__dropout_rate="0.1")
    decided = decide(facts(600, 192, IMAGENET, SHIPPED), given)
    assert "init" not in decided.settings
    reasons = {decision.name: decision for decision in decided.reasons}
    assert reasons["weights"].value == "none"
    assert reasons["weights"].reason == "torchvision:densenet121 and cifar10 do not fit model.growth_rate"
    assert reasons["recipe"].value == "quick"
    stem = chosen(model__stem="cifar")
    cifar = {decision.name: str(decision) for decision in decide(facts(600, 192, IMAGENET, SHIPPED), stem).reasons}
    assert cifar["weights"].startswith("cifar10: ")
    assert cifar["weights"].endswith("; torchvision:densenet121 does not fit model.stem")
    with pytest.raises(InvalidInput, match=r"there are none \(torchvision:densenet121 does not fit model.stem\)"):
        decide(facts(600, 192, IMAGENET), replace(stem, recipe="finetune"))
    free = chosen(model__dropout_rate="0.1")
    assert values(facts(600, 192, IMAGENET), free)["weights"] == "torchvision:densenet121"


def test_finetune_takes_weights_itself_even_of_many_images() -> None:
    assert values(facts(FEW, 192, IMAGENET), Given(recipe="finetune"))["weights"] == "torchvision:densenet121"


def test_finetune_without_weights_is_an_error_that_says_where_to_get_them() -> None:
    with pytest.raises(InvalidInput, match=r"finetune needs weights.*--init.*download X"):
        decide(facts(missing="download X"), Given(recipe="finetune"))


def test_a_batch_takes_at_most_half_of_the_memory() -> None:
    wide = values(facts(600, 224 * 2, IMAGENET, cores=64))
    tight = values(facts(600, 224 * 2, IMAGENET, cores=64, memory=2 * GIB))
    assert int(tight["batch"]) < int(wide["batch"])


def test_a_batch_takes_at_most_half_of_the_memory_at_a_size_of_the_users_own() -> None:
    tight = facts(600, 448, IMAGENET, cores=64, memory=2 * GIB)
    decided = decide(tight, Given()).settings
    same = decide(tight, chosen(data__image_size=decided["data.image_size"])).settings
    larger = decide(tight, chosen(data__image_size=448)).settings
    unset = decide(tight, chosen(data__image_size=None)).settings  # 224 pixels
    assert unset["batch_size"] == decide(tight, chosen(data__image_size=224)).settings["batch_size"]
    assert larger["batch_size"] < same["batch_size"] == decided["batch_size"] < 32


def test_a_batch_of_images_in_memory_takes_at_most_half_of_it_too() -> None:
    """They have one size, which is not decided."""
    large = facts(600, 448, IMAGENET, memory=2 * GIB, resizable=False)
    assert decide(large, Given()).settings["batch_size"] < 8


@pytest.mark.parametrize(
    ("found", "side", "network"),
    [
        (facts(600, 500), 224, "densenet121"),
        (facts(600, 500), 96, "densenet_bc_40_12"),
        (facts(FEW, 500, cuda=True), 80, "densenet121"),
        (facts(FEW, 500, cuda=True), 32, "densenet_bc_100_12"),
        (facts(60_000, 32, cores=64), 32, "densenet_bc_100_12"),
        (facts(60_000, 32, cores=64), 160, "densenet_bc_40_12"),
    ],
)
def test_the_network_suits_a_size_of_the_users_own(found: Facts, side: int, network: str) -> None:
    """By what it costs at that size, and above 96 pixels by a stem that shrinks photographs."""
    assert values(found, chosen(data__image_size=side))["model"] == network


def test_the_network_of_given_weights_is_theirs(tmp_path: Path, tiny_run: Path) -> None:
    photos = write_photos(tmp_path / "photos", size=16)
    finished = densekit.train(str(photos), init=tiny_run, epochs=1, out=tmp_path / "run")
    recipe = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert recipe["model"]["name"] == "densenet_bc_10_8"
    assert recipe["name"] == "finetune"


def test_named_data_sets_keep_the_recipe_that_is_theirs(tmp_path: Path) -> None:
    few = {"data.limit": 50}
    finished = densekit.train("digits", model="densenet_bc_10_4", epochs=1, out=tmp_path / "run", settings=few)
    recipe = yaml.safe_load((finished.folder / "config.yaml").read_text())
    expected = compose("digits", model="densenet_bc_10_4", epochs=1, settings=few)
    assert recipe["optimizer"] == json.loads(expected.model_dump_json())["optimizer"]
    assert recipe["divergence"] == json.loads(expected.model_dump_json())["divergence"]


def test_a_whole_config_file_leaves_nothing_open(tmp_path: Path, photos: Path) -> None:
    first = densekit.train(str(photos), model="densenet_bc_10_4", epochs=1, out=tmp_path / "first")
    again = densekit.train(str(photos), config=first.folder / "config.yaml", out=tmp_path / "again")
    one, other = (yaml.safe_load((each.folder / "config.yaml").read_text()) for each in (first, again))
    assert one == other


def test_given_says_what_is_set() -> None:
    made = compose("photos", epochs=3)
    assert given_by(None, None, {"init": None}, made).init == "none"
    assert given_by(None, None, {}, made).init is None
    assert given_by(None, "quick", {"epochs": 3}, made).keys == {"epochs"}


@pytest.mark.parametrize("init", [None, "none"])
def test_finetune_of_nothing_exits_with_2(init: str | None, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="finetune needs weights") as error:
        densekit.train(str(photos), recipe="finetune", model="densenet_bc_10_4", init=init, out=tmp_path / "run")
    assert status_of(error.value) == 2
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_finetunes_nothing_is_refused_whoever_made_it(photos: Path, tmp_path: Path) -> None:
    made = compose(str(photos), model="densenet_bc_10_4", recipe="finetune")
    with pytest.raises(InvalidInput, match="finetune needs weights"):
        train_recipe(made, out=tmp_path / "run")
