"""Documents from anywhere are parsed within bounds, or refused in one line."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from densekit.errors import BadData, InvalidInput
from densekit.parsing import YAML_BYTES, Malformed, parse_json, parse_yaml, read_json, read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def bomb(start: str, step: str, levels: int) -> str:
    """Each line refers ten times to the line before."""
    lines = [f"a0: &a0 {start}"]
    lines += [f"a{i}: &a{i} {step % ', '.join([f'*a{i - 1}'] * 10)}" for i in range(1, levels)]
    return "\n".join(lines)


@given(VALUES)
def test_what_yaml_writes_is_read_back(value: object) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value


def test_aliases_and_merge_keys_within_the_bounds_are_values() -> None:
    text = "base: &b {lr: 0.1, name: sgd}\none: *b\ntwo: {<<: *b, lr: 0.2}"
    assert parse_yaml(text) == {
        "base": {"lr": 0.1, "name": "sgd"},
        "one": {"lr": 0.1, "name": "sgd"},
        "two": {"lr": 0.2, "name": "sgd"},
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb("[x, y]", "[%s]", 12), "expands to more than"),
        (bomb("{x: 1}", "{<<: [%s]}", 12), "expands to more than"),
        ("a: &a [*a]", "within what it refers to"),
        ("a: &a {b: *a}", "within what it refers to"),
        ("lr: 1\nmomentum: 0.9\nlr: 2", "lr stands twice, again in line 3"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "1:" * 40_000 + "1", "more than 65,536 characters"),
        ("a: 2021-13-45", "month"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: [", "not YAML"),
    ],
)
def test_yaml_beyond_the_bounds_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":', "nul", "1" * 5000])
def test_json_beyond_the_bounds_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_json(text)


def test_a_file_is_measured_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"#" * (YAML_BYTES + 1))
    with pytest.raises(Malformed, match="more than 1,048,576 bytes"):
        read_yaml(path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(Malformed, match="not UTF-8"):
        read_json(path)


@pytest.fixture
def bombed(tmp_path: Path) -> Path:
    """A file that asks for billions of values."""
    path = tmp_path / "bomb.yaml"
    path.write_text(bomb("[x, y]", "[%s]", 12) + "\noptimizer: {no_decay: *a11}\n")
    return path


def test_a_config_a_copied_run_a_grid_and_a_study_are_bounded(bombed: Path, tmp_path: Path) -> None:
    from densekit.runs import run_folder
    from densekit.study import definition, grid
    from densekit.training.compose import compose

    with pytest.raises(InvalidInput, match="expands"):
        compose("digits", config=bombed)
    with pytest.raises(InvalidInput, match="expands"):
        grid.read_grid(bombed)
    for name, read in (("config.yaml", run_folder.recipe_of), ("study.yaml", definition.read)):
        (tmp_path / name).write_bytes(bombed.read_bytes())
        with pytest.raises(BadData, match="expands"):
            read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'{"top1": 1', b'{"unknown": 1}', b"[1]"])
def test_a_damaged_result_or_row_of_a_run_is_named(content: bytes, tmp_path: Path) -> None:
    from densekit.runs import run_folder

    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(BadData, match=r"result\.json is damaged"):
        run_folder.result_of(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(json.dumps({"epoch": 1}).encode() + b"\n{" + content)
    with pytest.raises(BadData, match=r"metrics\.jsonl is damaged"):
        run_folder.metrics(tmp_path)
    (tmp_path / "env.json").write_bytes(content or b"1")
    if content not in (b'{"unknown": 1}',):
        with pytest.raises(BadData, match=r"env\.json is damaged"):
            run_folder.environment_of(tmp_path)
