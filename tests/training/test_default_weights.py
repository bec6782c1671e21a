"""`densekit train PHOTOS` and nothing else: from ImageNet's weights, from the shipped net, or from scratch, and why."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from densekit.config import IMAGENET_MEAN, Recipe
from densekit.data import load
from densekit.data.prepare import preprocessing_for
from densekit.models import config_for
from densekit.runs import run_folder
from densekit.training import facts as facts_module
from densekit.training import plan_selection
from densekit.training.compose import compose
from densekit.training.defaults import decide
from densekit.training.facts import Given, facts_of
from densekit.training.setup import prepare
from densekit.weights import resolve
from densekit.weights.folder import read_card
from densekit.weights.torchvision_files import WeightsFile, weights_file
from tests.cli.terminal import at_terminal
from tests.conftest import Command, write_photos
from tests.training.made_weights import no_network, ship, torchvision_file

SHORT = ("--epochs", "1", "--out", "run")


@pytest.fixture
def hub(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder, without network; the current folder has photographs, and the package has no `cifar10`."""
    write_photos(tmp_path / "photos", size=70)
    monkeypatch.setattr(resolve, "SHIPPED", tmp_path / "shipped")
    return no_network(monkeypatch, tmp_path)


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are not measured, which takes longer than the training here."""

    def seconds(prepared: object, images: object, plans: Sequence[str]) -> dict[str, float]:
        return dict.fromkeys(plans, 1e-3)

    monkeypatch.setattr(plan_selection, "_seconds_per_image", seconds)


def plan_of(lines: Sequence[str]) -> dict[str, str]:
    """Name -> value of the plan's lines, unwrapped."""
    rows: dict[str, str] = {}
    name = ""
    for line in lines:
        if match := re.match(r"  (\S.{8}) (\S.*)", line):
            name = match[1].strip()
            rows[name] = match[2]
        elif line.startswith(" " * 12):
            rows[name] += f" {line.strip()}"
    return rows


def check_finetuned(recipe: Recipe) -> None:
    """Discriminative rates, a warm-up, and an average of the weights."""
    assert recipe.name == "finetune"
    assert recipe.init == "torchvision:densenet121"
    assert recipe.model.name == "densenet121"
    assert (recipe.optimizer.lr, recipe.optimizer.body_lr) == (0.05, 0.2)
    assert (recipe.schedule.name, recipe.schedule.warmup) == ("cosine", 0.1)
    assert recipe.ema.decay == 0.99
    assert recipe.divergence.growth == 3
    assert recipe.divergence.rollbacks == 4


@pytest.mark.usefixtures("untimed")
def test_torchvisions_file_is_fine_tuned_from_and_the_plan_says_why_in_80_columns(
    hub: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the older form, named by its own hash, where the download would be."""
    torchvision_file(monkeypatch, hub)
    with at_terminal("n\n", monkeypatch) as terminal:
        status, out, _ = command("train", "photos", *SHORT)
    assert status == 0, terminal.lines()
    assert out.splitlines()[-1] == "report: run/report.html"
    lines = terminal.lines()
    assert max(map(len, lines)) <= 80, lines
    plan = plan_of(lines)
    assert plan["weights"] == (
        "torchvision:densenet121: trained on ImageNet's photographs; 24 photos are too few to learn as much from"
    )
    assert plan["model"] == "densenet121: the network of these weights"
    assert plan["recipe"].startswith("finetune: warm-up, then a cosine")
    assert plan["rate"] == "0.05: of the head, which may be new; 0.2 of it for all else, which is trained"
    assert plan["pixels"] == "ImageNet's mean and deviation: those that these weights were trained with"
    assert plan["start"] == "torchvision:densenet121"
    assert plan["new head"] == "classifier.weight, classifier.bias"
    check_finetuned(run_folder.recipe_of(tmp_path / "run"))
    assert read_card(tmp_path / "run" / "checkpoints" / "last").preprocessing.mean == IMAGENET_MEAN


@pytest.mark.parametrize("shipped", [False, True])
def test_a_download_that_breaks_off_leaves_the_next_weights(
    shipped: bool, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answered when it was asked."""
    if shipped:
        ship(tmp_path / "shipped")
    monkeypatch.setattr(WeightsFile, "reachable", lambda self: True)
    recipe = compose("photos")
    facts = facts_of(load(recipe.data, tmp_path), recipe, Given())
    assert [weights.source for weights in facts.weights] == ["cifar10"] * shipped
    assert f"put it at {hub / 'densenet121-a639ec97.pth'}" in facts.missing


def test_nothing_is_downloaded_for_another_network(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights would not fit the user's settings."""
    monkeypatch.setattr(WeightsFile, "reachable", lambda self: True)
    monkeypatch.setattr(facts_module, "downloaded", lambda network: pytest.fail("downloaded"))
    recipe = compose("photos", settings={"model.growth_rate": 6})
    facts_of(load(recipe.data, tmp_path), recipe, Given(network={"model.growth_rate": 6}))


def test_all_tensors_but_the_head_are_the_files(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running statistics included."""
    _, theirs = torchvision_file(monkeypatch, hub)
    given = Given()
    first = compose("photos")
    decided = decide(facts_of(load(first.data, tmp_path), first, given), given)
    recipe = compose("photos", model=decided.model, recipe=decided.recipe, defaults=decided.settings)
    prepared = prepare(recipe, tmp_path)
    ours = prepared.model.state_dict()
    assert prepared.new == ("classifier.weight", "classifier.bias")
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - set(prepared.new):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize("shipped", [False, True])
def test_without_the_file_the_plan_names_it_and_it_is_taken_from_there(
    shipped: bool, hub: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = torchvision_file(monkeypatch, hub)
    shutil.move(made, tmp_path / "downloaded elsewhere")
    if shipped:
        ship(tmp_path / "shipped", half=True)
    status, _, err = command("train", "photos", *SHORT)
    assert status == 0
    said = plan_of(err.splitlines())["weights"]
    named = re.search(r"for a better start, download (\S+) and put it at (\S+)", said)
    assert named is not None, said
    address, place = named.groups()
    assert address == f"https://download.pytorch.org/models/{made.name}"
    assert address in err.split(), "a word of its own, that can be copied"
    assert place in err.split()
    recipe = run_folder.recipe_of(tmp_path / "run")
    assert said.startswith(
        "cifar10: trained on CIFAR-10's pictures" if shipped else "none: torchvision's weights could not be downloaded"
    )
    assert recipe.init == ("cifar10" if shipped else None)
    assert recipe.model.name == ("densenet_bc_10_4" if shipped else "densenet_bc_40_12")
    assert recipe.name == ("finetune" if shipped else "quick")
    assert recipe.data.image_size == (64, 64)
    shutil.move(tmp_path / "downloaded elsewhere", place)
    first = compose("photos")
    best, *_ = facts_of(load(first.data, tmp_path), first, Given()).weights
    assert best.source == "torchvision:densenet121"
    assert weights_file("densenet121").fault() == ""


def test_recipe_finetune_without_weights_names_the_file_and_exits_with_2(hub: Path, command: Command) -> None:
    status, _, err = command("train", "photos", "--recipe", "finetune", *SHORT)
    assert status == 2
    assert f"put it at {hub / 'densenet121-a639ec97.pth'}" in err.splitlines()[-1]


def test_recipe_finetune_takes_no_weights_whose_network_the_images_are_too_small_for(
    hub: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision_file(monkeypatch, hub)
    status, _, err = command("train", "digits", "--recipe", "finetune", *SHORT)
    assert status == 2
    assert "--recipe finetune needs weights to start from, and there are none; name some" in err.splitlines()[-1]
    found = []
    for name, side, given in (
        ("small", 40, Given("finetune")),
        ("photos", 70, Given("finetune", image_size=(28, 28))),
        ("photos", 70, Given("finetune", image_size=(29, 29))),
        ("small", 40, Given("finetune", config_for("densenet121"))),
    ):
        write_photos(tmp_path / name, size=side)
        recipe = compose(name)
        found.append(facts_of(load(recipe.data, tmp_path), recipe, given).weights)
    assert [bool(weights) for weights in found] == [False, False, True, True]


def test_weights_asked_for_that_cannot_be_had_name_the_file_and_exit_with_3(hub: Path, command: Command) -> None:
    status, out, err = command("train", "photos", "--init", "torchvision:densenet121", *SHORT)
    assert (status, out) == (3, "")
    assert "https://download.pytorch.org/models/densenet121-a639ec97.pth" in err.splitlines()[-1]
    assert f"put it at {hub / 'densenet121-a639ec97.pth'}" in err.splitlines()[-1]


def test_another_file_in_its_place_is_refused_with_3(hub: Path, command: Command) -> None:
    (hub / "densenet121-a639ec97.pth").write_bytes(b"<html>sign in to download</html>")
    status, _, err = command("train", "photos", *SHORT)
    assert status == 3
    assert "its SHA-256 begins with" in err.splitlines()[-1]


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(("size", "side"), [(130, 64), (40, 40)])
def test_the_shipped_net_is_trained_on_phone_photos_at_64_pixels_and_on_small_pictures_at_their_own(
    size: int, side: int, hub: Path, command: Command, tmp_path: Path
) -> None:
    """Not at the 32 pixels that it was trained with."""
    ship(tmp_path / "shipped", half=True)
    write_photos(tmp_path / "phone", size=size)
    status, _, err = command("train", "phone", *SHORT)
    assert status == 0
    plan = plan_of(err.splitlines())
    assert plan["weights"].startswith("cifar10: trained on CIFAR-10's pictures; 24 p")
    assert plan["size"].startswith(f"{side} px: ")
    assert plan["start"] == "cifar10"
    recipe = run_folder.recipe_of(tmp_path / "run")
    assert recipe.init == "cifar10"
    assert recipe.name == "finetune"
    assert recipe.data.image_size == (side, side)
    assert read_card(tmp_path / "run" / "checkpoints" / "last").provenance["init"] == "cifar10"


@pytest.mark.usefixtures("untimed")
def test_a_network_changed_by_settings_is_trained_from_scratch(hub: Path, command: Command, tmp_path: Path) -> None:
    """The shipped weights could not be loaded into it."""
    ship(tmp_path / "shipped")
    write_photos(tmp_path / "small", size=16)
    changed = ("--set", "model.growth_rate=6", "--set", "model.blocks=[1, 1, 1]")
    status, _, err = command("train", "small", *changed, *SHORT)
    assert status == 0, err
    said = "none: cifar10 does not fit model.growth_rate, model.blocks"
    assert plan_of(err.splitlines())["weights"] == said
    assert run_folder.recipe_of(tmp_path / "run").init is None


def test_a_folder_of_that_name_is_not_the_shipped_net(hub: Path, tmp_path: Path, tiny_run: Path) -> None:
    ship(tmp_path / "shipped")
    recipe = compose("photos")
    data = load(recipe.data, tmp_path)
    assert [weights.source for weights in facts_of(data, recipe, Given()).weights] == ["cifar10"]
    shutil.copytree(tiny_run, tmp_path / "cifar10")
    assert not facts_of(data, recipe, Given()).weights


@pytest.mark.slow
def test_the_command_alone_fine_tunes_to_its_last_epoch(
    hub: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision_file(monkeypatch, hub)
    status, out, err = command("train", "photos")
    assert status == 0, err
    (run,) = (tmp_path / "runs").iterdir()
    recipe = run_folder.recipe_of(run)
    check_finetuned(recipe)
    assert recipe.epochs == 10
    assert len(run_folder.metrics(run)) == 10
    assert out.splitlines()[-1] == f"report: runs/{run.name}/report.html"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_normalised_by_imagenet_its_mean_colour_is_0_and_one_deviation_more_is_1(channels: int, hub: Path) -> None:
    recipe = compose("photos", settings={"data.normalise": "imagenet", "data.channels": channels})
    preprocessing = preprocessing_for(load(recipe.data, hub), recipe.data)
    x = torch.tensor([[0.485, 0.456, 0.406], [0.485 + 0.229, 0.456 + 0.224, 0.406 + 0.225]])
    if channels == 1:
        x = x.mean(1, keepdim=True)
    mean, std = (torch.tensor(values)[: min(channels, 3)] for values in (preprocessing.mean, preprocessing.std))
    expected = torch.tensor([[0.0], [1.0]]).expand(2, len(mean))
    torch.testing.assert_close((x - mean) / std, expected, rtol=0, atol=2e-3)
    assert len(preprocessing.mean) == channels
