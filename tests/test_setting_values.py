"""What a setting says as text is what it means; only structures are YAML."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densekit.cli.options import parse
from densekit.config import DataConfig, Recipe, with_data_settings, with_settings
from densekit.errors import InvalidInput
from densekit.recipes import recipe_for
from densekit.training.compose import compose

TABLE = recipe_for("quick", "csv:x.csv")


def set_on(recipe: Recipe, setting: str) -> Recipe:
    """As the command line does."""
    return with_settings(recipe, parse([setting]))


def found(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    "text", ["|", " ", ",", ":", "#", "-", "null", "~", "no", "1e3", "010", "1:30", "[", "{a", "*x", "&"]
)
def test_text_is_taken_as_it_stands(text: str) -> None:
    for key in ("data.label_separator", "data.no_label", "data.image_root", "init"):
        assert found(set_on(TABLE, f"{key}={text}"), key) == text
        assert found(with_settings(TABLE, {key: text}), key) == text
    assert with_data_settings(TABLE.data, {"data.no_label": text}).no_label == text


@given(st.text(min_size=1))
def test_any_text_from_python_is_itself(text: str) -> None:
    assert with_settings(TABLE, {"data.no_label": text}).data.no_label == text


@pytest.mark.parametrize("quoted", ["','", '","'])
def test_quotes_around_a_whole_value_of_the_command_line_are_dropped(quoted: str) -> None:
    assert set_on(TABLE, f"data.label_separator={quoted}").data.label_separator == ","
    assert set_on(TABLE, "optimizer.lr='0.05'").optimizer.lr == 0.05
    assert set_on(TABLE, "data.no_label=it's").data.no_label == "it's"
    assert set_on(TABLE, "data.no_label='none' or 'null'").data.no_label == "'none' or 'null'"


def test_a_tab_can_be_typed() -> None:
    assert set_on(TABLE, r"data.label_separator=\t").data.label_separator == "\t"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("optimizer.lr=1e-3", 0.001),
        ("optimizer.clip_norm=null", None),
        ("optimizer.clip_norm=", None),
        ("epochs=010", 10),
        ("checkpoint.every_steps=~", None),
        ("augment.flip=yes", True),
        ("augment.flip=off", False),
        ("data.channels=1", 1),
        ("data.image_size=64", (64, 64)),
        ("data.image_size=[48, 64]", (48, 64)),
        ("data.image_size=null", None),
        ("data.window=[40, 4e2]", (40.0, 400.0)),
        ("schedule.milestones=[0.5, 7.5e-1]", (0.5, 0.75)),
        ("resize=[[0.0, 24], [0.5, 32]]", ((0.0, 24), (0.5, 32))),
        ("trackers=tensorboard", ("tensorboard",)),
        ("trackers=[tensorboard, mlflow]", ("tensorboard", "mlflow")),
        ("trackers=", ()),
        ("optimizer.no_decay=*.bias,*norm*", ("*.bias", "*norm*")),
        ('optimizer.no_decay=["*.bias"]', ("*.bias",)),
        ("data.label_columns=1", ("1",)),
        ("data.label_columns=no, 1e3 ,Pleural Effusion", ("no", "1e3", "Pleural Effusion")),
        ("data.label_columns=['a, b', 08]", ("a, b", "08")),
        ("data.label_columns=", None),
        ("data.path_column=0", "0"),
        ("data.blank_labels=null", None),
        ("data.no_label=", None),
        ("model.dropout_sites=conv3x3,transition", ("conv3x3", "transition")),
    ],
)
def test_a_value_is_read_by_the_type_of_its_field(setting: str, value: Any) -> None:
    assert found(set_on(TABLE, setting), setting.partition("=")[0]) == value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs=1:30", "epochs=1:30"),
        ("epochs=1e3", "epochs=1e3"),
        ("optimizer.lr=[", "optimizer.lr"),
        ("schedule.milestones=[0.5", "not YAML"),
        ("data.window=x: [", "not YAML"),
        ("trackers=[tensorboard", "not YAML"),
        ("augment.crop=non", "augment.crop=non"),
        ("optimizer.name=null", "optimizer.name=null"),
    ],
)
def test_a_value_that_does_not_fit_is_named_in_one_line(setting: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words.replace("[", r"\[")) as caught:
        set_on(TABLE, setting)
    assert "\n" not in str(caught.value)


def test_a_yaml_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text('data: {label_separator: " ", no_label: "no", path_column: "0", label_columns: ["1"]}\n')
    data = compose("csv:x.csv", config=path).data
    assert (data.label_separator, data.no_label, data.path_column, data.label_columns) == (" ", "no", "0", ("1",))
    path.write_text("data: {no_label: no}\n")
    with pytest.raises(InvalidInput, match=r"data\.no_label=False.*put it in quotes"):
        compose("csv:x.csv", config=path)


def test_every_field_of_a_recipe_takes_its_own_value_as_text() -> None:
    """A field of a new kind must not fall between text, number and structure."""
    import yaml

    recipe = TABLE.model_copy(update={"data": DataConfig(source="csv:x.csv", label_columns="a,b", group_column="g")})

    def keys(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
        below = ((f"{prefix}{key}", value) for key, value in tree.items())
        return [
            pair
            for key, value in below
            for pair in (keys(value, f"{key}.") if isinstance(value, dict) else [(key, value)])
        ]

    for key, value in keys(recipe.model_dump(mode="json")):
        text = (
            "" if value is None else value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True)
        )
        assert with_settings(recipe, {key: text.removesuffix("\n").removesuffix("\n...")}) == recipe, key
