"""The ledger holds what the paper printed. Values here were copied from the paper's tables once more, by themselves."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from densekit.cli.reproduce import reproduce
from densekit.cli.study import study
from densekit.cli.train import train
from densekit.config import DenseNetConfig
from densekit.errors import InvalidInput, UnknownName
from densekit.models import build, config_for, model_names
from densekit.study.builtin import BUILT_IN
from densekit.study.ledger import ASSUMED_FLOPS, Cell, Measured, cell_for, cells
from tests.conftest import Command
from tests.narrow import not_none

ROOT = Path(__file__).parents[2]
TABLE_2 = """
resnet_110                  13.63 6.41 44.74 27.22 2.01
stochastic_depth_resnet_110 11.66 5.23 37.80 24.58 1.75
preact_resnet_164           -     5.46 -     24.33 -
preact_resnet_1001          -     4.62 -     22.71 -
wrn_28                      -     4.17 -     20.50 -
densenet_40_12              7.00  5.24 27.55 24.42 1.79
densenet_100_12             5.77  4.10 23.79 20.20 1.67
densenet_100_24             5.83  3.74 23.42 19.25 1.59
densenet_bc_100_12          5.92  4.51 24.15 22.27 1.76
densenet_bc_250_24          5.19  3.62 19.64 17.60 1.74
densenet_bc_190_40          -     3.46 -     17.18 -
"""
TABLE_3 = {"densenet121": (25.02, 23.61), "densenet169": (23.80, 22.08), "densenet201": (22.58, 21.46)}
TABLE_3 |= {"densenet264": (22.15, 20.80)}
# Of the models that `densekit models` lists, those that the paper's tables do not have.
UNMEASURED = {
    "densenet_b_40_12", "densenet_c_40_12", "densenet_bc_22_12", "densenet_bc_40_12", "densenet_bc_40_36",
    "densenet_bc_40_48", "densenet_bc_40_60", "densenet264_k48", "densenet232_k48", "resnet_20", "resnet_32",
    "resnet_44", "resnet_56",
}  # fmt: skip


def test_table_2_is_the_papers() -> None:
    columns = ("cifar10", "cifar10+", "cifar100", "cifar100+", "svhn")
    printed = {
        f"{column}/{model}": float(value)
        for model, *values in map(str.split, TABLE_2.strip().splitlines())
        for column, value in zip(columns, values, strict=True)
        if value != "-"
    }
    assert {cell.id: cell.claimed for cell in cells().values() if cell.source == "table 2"} == printed


def test_table_3_is_the_papers() -> None:
    printed = {
        f"{column}/{model}": value
        for model, values in TABLE_3.items()
        for column, value in zip(("imagenet", "imagenet-10crop"), values, strict=True)
    }
    assert {cell.id: cell.claimed for cell in cells().values() if cell.source == "table 3"} == printed
    assert cell_for("imagenet/densenet161").claimed == 22.2
    assert cell_for("fashion-mnist+/densenet_bc_100_12").claimed == pytest.approx(100 - 95.4)
    assert cell_for("fig3/densenet201").claimed == 22.58


def test_every_named_model_that_the_paper_measured_has_a_cell() -> None:
    assert {cell.model for cell in cells().values() if cell.model} >= set(model_names()) - UNMEASURED
    assert set(model_names()) >= UNMEASURED


def test_every_missing_number_has_its_reason() -> None:
    for cell in cells().values():
        assert (cell.claimed is None) == (cell.unclaimed is not None), cell.id
        assert cell.gpu_hours() is not None or cell.cost_basis().startswith("none: "), cell.id
        assert cell.command or cell.unrunnable, cell.id
        if cell.claimed is None or cell.unrunnable:
            assert cell.deviations, cell.id


def test_every_recipe_resolves_to_the_papers_training() -> None:
    for cell in cells().values():
        if cell.model is None or cell.unrunnable:
            with pytest.raises(InvalidInput, match="cannot be run" if cell.unrunnable else "is many runs"):
                cell.recipe()
            continue
        recipe = cell.recipe()
        imagenet, svhn = cell.data == "imagenet", cell.data == "svhn"
        assert (recipe.epochs, recipe.batch_size) == ((90, 256) if imagenet else (40 if svhn else 300, 64)), cell.id
        assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.1, 0.9, 1e-4)
        augmented = imagenet or "+" in str(cell.recipe_name)
        assert recipe.augment.flip == augmented
        if isinstance(recipe.model, DenseNetConfig):  # dropout where there is no augmentation, never with it
            assert recipe.model.dropout_rate == (0.0 if augmented else 0.2), cell.id
        assert recipe.select == ("best" if svhn else "last")
        assert cell.ten_crop == cell.id.startswith("imagenet-10crop/")


def test_a_network_is_trained_once_for_one_crop_and_ten() -> None:
    assert cell_for("imagenet-10crop/densenet121").training == cell_for("imagenet/densenet121").training
    assert cell_for("cifar10/densenet_40_12").training != cell_for("cifar10+/densenet_40_12").training


def test_every_command_parses() -> None:
    app = typer.Typer()
    for verb in (reproduce, study, train):
        app.command()(verb)
    group: Any = typer.main.get_command(app)
    for cell in cells().values():
        for command in filter(None, (cell.command, cell.study)):
            program, *words = shlex.split(command)
            assert program == "densekit"
            verb = group.commands[words[0]]
            context = verb.make_context(words[0], words[1:])
            if words[0] == "study":
                assert context.params["name"] in BUILT_IN
            else:
                assert context.params["target"] == cell.id


def test_gpu_hours_are_the_stated_arithmetic() -> None:
    """287.9 M MACs (paper's table of sizes) x 3 x 2 x 50,000 x 300, in hours."""
    cell = cell_for("cifar10+/densenet_bc_100_12")
    assert cell.gpu_hours() == pytest.approx(
        6 * 287.9e6 * 50_000 * 300 / ASSUMED_FLOPS["small images"] / 3600, rel=1e-3
    )
    assert "never measured" in cell.cost_basis()
    assert cell_for("imagenet/densenet121").gpu_hours() == pytest.approx(
        6 * 2.834e9 * 1_281_167 * 90 / ASSUMED_FLOPS["photographs"] / 3600, rel=1e-3
    )


def test_fashion_mnists_network_has_the_parameters_it_is_said_to_have() -> None:
    config = config_for("densenet_bc_100_12").model_copy(update={"in_channels": 1, "image_size": (28, 28)})
    assert round(sum(p.numel() for p in build(config).parameters()), -3) == 769_000
    assert math.floor(sum(p.numel() for p in build(config).parameters()) / 1000) == 768


def stands_in_its_evidence(cell: Cell, root: Path) -> bool:
    """Whether a measured number is that of a file below `root`, of a whole recipe."""
    measured = not_none(cell.measured)
    evidence = json.loads((root / measured.evidence).read_text())
    return bool(
        evidence["complete"]
        and evidence["cell"] == cell.id
        and evidence["seeds"] == list(measured.seeds)
        and evidence["mean"] == pytest.approx(measured.mean, abs=0.005)
        and evidence["deviation"] == pytest.approx(measured.deviation, abs=0.005)
    )


def test_every_measurement_stands_in_its_evidence() -> None:
    assert [cell.id for cell in cells().values() if cell.measured and not stands_in_its_evidence(cell, ROOT)] == []


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ({}, True),
        ({"complete": False}, False),
        ({"cell": "cifar10/densenet_40_12"}, False),
        ({"seeds": [0, 1]}, False),
        ({"mean": 5.26}, False),
        ({"deviation": 0.2}, False),
    ],
)
def test_a_measurement_that_is_not_that_of_its_evidence_is_noticed(
    change: dict[str, Any], stands: bool, tmp_path: Path
) -> None:
    """As long as the ledger has no measured number, the test before sees none."""
    measured = Measured(mean=5.24, deviation=0.1, seeds=(0, 1, 2), evidence="evidence.json")
    cell = cell_for("cifar10+/densenet_40_12").model_copy(update={"measured": measured})
    evidence = {"complete": True, "cell": cell.id, "seeds": [0, 1, 2], "mean": 5.24, "deviation": 0.1}
    (tmp_path / "evidence.json").write_text(json.dumps(evidence | change))
    assert stands_in_its_evidence(cell, tmp_path) is stands


def test_the_list_is_json_for_programs_and_a_table_for_people(densekit: Command) -> None:
    status, out, _ = densekit("reproduce", "cifar10+/densenet_bc_100_12", "--list", "--json")
    (cell,) = json.loads(out)
    assert status == 0
    assert (cell["id"], cell["claimed"], cell["measured"]) == ("cifar10+/densenet_bc_100_12", 4.51, None)
    assert cell["recipe"]["epochs"] == 300
    assert cell["command"] == "densekit reproduce cifar10+/densenet_bc_100_12 --seeds 3"
    status, out, _ = densekit("reproduce", "cifar10+/wrn_28", "--list")
    assert status == 0
    assert "cannot be run: densekit has no wide residual network" in out


def test_an_unknown_number_offers_the_closest(densekit: Command) -> None:
    with pytest.raises(UnknownName, match=r"did you mean cifar10\+/densenet_bc_100_12"):
        cell_for("cifar10+/densenet_bc_100_21")
    status, _, err = densekit("reproduce")
    assert status == 2
    assert "no TARGET" in err
