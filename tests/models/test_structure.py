"""A network module by module: what each makes is what it makes when it runs, and all of it adds up."""

import json
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

from densekit.cli.show_model import lines
from densekit.errors import InvalidInput, UnknownName
from densekit.models import create_model
from densekit.models.cost import as_published, cost_of
from densekit.models.names import config_for
from densekit.report.network_drawing import drawing, stages, write_drawing
from densekit.weights import model_structure
from tests.cli.test_errors import Command, densekit

__all__ = ["densekit"]

show = cache(model_structure.show)

NAMES = (
    "densenet121", "densenet_40_12", "densenet_bc_22_12", "resnet_20", "preact_resnet_164", "torchvision:resnet18",
    "timm:vit_tiny_patch16_224",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_totals_are_those_of_densekit_models_and_layers_add_up_to_them(name: str) -> None:
    """Also where a network keeps parameters outside its layers, as a transformer its class token."""
    found, config = show(name), config_for(name)
    published = cost_of(as_published(config))
    assert (found.parameters, found.macs, found.depth) == (published.parameters, published.macs, published.depth)
    assert found.macs_pool_first == cost_of(config).macs
    assert found.input == (config.in_channels, *config.image_size)
    assert sum(layer.own_parameters for layer in found.layers()) == found.parameters
    assert sum(layer.own_macs for layer in found.layers()) == found.macs
    for module in found.modules:
        below = [m for m in found.modules if m.name.startswith(f"{module.name}.".lstrip("."))]
        assert module.macs == sum(m.own_macs for m in {*below, module})


def test_shapes_are_those_of_a_real_image() -> None:
    model = create_model("densenet_bc_22_12", plan="concat", pool_first=False).eval()
    seen: dict[str, tuple[int, ...]] = {}

    def hook(name: str) -> object:
        return lambda _module, _inputs, output: seen.__setitem__(name, tuple(output.shape[1:]))

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))  # type: ignore[arg-type]
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    found = {module.name: module.output for module in show("densenet_bc_22_12").modules}
    assert len(seen) > 80
    assert {name: found[name] for name in seen} == seen


def test_a_convolution_and_a_linear_layer_cost_what_their_formulas_say() -> None:
    model = dict(create_model("densenet_bc_22_12").named_modules())
    for layer in show("densenet_bc_22_12").layers():
        module = model[layer.name]
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert isinstance(weight, Tensor)
            places = layer.output[1] * layer.output[2] if len(layer.output) == 3 else 1
            assert layer.own_macs == weight.numel() * places, layer.name
        else:
            assert layer.own_macs == 0, layer.name


def test_the_size_of_the_image_moves_shapes_and_macs() -> None:
    small, large = show("densenet121", image_size=64), show("densenet121")
    assert small.input == (3, 64, 64)
    assert small.parameters == large.parameters
    assert small.macs < large.macs
    assert small.macs_pool_first == cost_of(config_for("densenet121").model_copy(update={"image_size": (64, 64)})).macs


@pytest.mark.parametrize("name", NAMES)
def test_rows_fit_in_80_columns(name: str) -> None:
    rows = lines(show(name))
    assert max(map(len, rows)) <= 80
    assert any(row.startswith("total") for row in rows)


def test_a_depth_leaves_out_what_is_below_it() -> None:
    rows = lines(show("densenet121"), depth=2)
    assert len(rows) == 19
    assert any("denseblock4" in row and "2,158,080" in row for row in rows)


def test_the_command_shows_runs_model_folders_and_shipped_models(densekit: Command, tiny_run: Path) -> None:
    for words in ((tiny_run,), (tiny_run / "checkpoints" / "last",), ("fashion-mnist",)):
        status, out, _ = densekit("show", *words, "--json")
        shown = json.loads(out)
        assert status == 0
        assert sum(layer["parameters"] for layer in shown["layers"]) == shown["parameters"]
        assert sum(layer["macs"] for layer in shown["layers"]) == shown["macs"]
        assert shown["layers"][0]["name"] == "features.conv0"


def test_what_cannot_be_shown_is_named(densekit: Command, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean densenet121"):
        show("densenet_121")
    with pytest.raises(InvalidInput, match="image_size"):
        show("densenet121", image_size=0)
    assert densekit("show", "densenet121", "--image-size", "8")[0] == 2
    assert densekit("show", "densenet_bc_22_12", "--draw", tmp_path / "net.png")[0] == 2
    assert densekit("show", "densenet_bc_22_12", "--draw", tmp_path / "no" / "net.svg")[0] == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_has_the_stages_in_order(name: str, tmp_path: Path) -> None:
    found = show(name)
    write_drawing(found, tmp_path / "net.svg")
    root = ElementTree.parse(tmp_path / "net.svg").getroot()
    assert root.tag.endswith("svg")
    words = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    shapes = [" × ".join(map(str, module.output)) for module in stages(found)]  # noqa: RUF001  # as drawn
    assert len(shapes) >= 4
    assert [word for word in words if word in shapes] == shapes
    if name == "densenet121":
        assert [word for word in words if word.startswith("dense block")] == [
            f"dense block {i}, {n} layers" for i, n in enumerate((6, 12, 24, 16), start=1)
        ]


def test_a_drawing_is_made_for_dark_grounds_too() -> None:
    text = drawing(show("densenet_bc_22_12"))
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
