"""The plan of a run is measured once, kept, and recorded."""

import json
from pathlib import Path

import pytest
import yaml

import densekit
from densekit import ops
from densekit.engine import choice


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "densekit" / "plans.json"


def small_run(folder: Path, **settings: object) -> dict[str, object]:
    run = densekit.train("digits", epochs=1, out=folder, settings={"data.limit": 64, **settings})
    return yaml.safe_load((run.folder / "config.yaml").read_text())


def test_a_run_records_the_plan_and_the_kernels(tmp_path, cache):
    recorded = small_run(tmp_path / "run")["plan"]
    (kept,) = json.loads(cache.read_text()).values()
    assert recorded == kept["plan"]
    assert set(kept["seconds"]) == {"concat", "shared"}
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["kernels"] == ops.kernels()
    assert environment["threads"] >= 1


def test_it_is_measured_once(tmp_path, monkeypatch):
    small_run(tmp_path / "one")
    monkeypatch.setattr(choice, "_measure", None)
    small_run(tmp_path / "two")


def test_a_named_plan_is_kept(tmp_path):
    assert small_run(tmp_path / "run", plan="checkpoint")["plan"] == "checkpoint"


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', "{"])
def test_a_damaged_cache_is_measured_again(tmp_path, cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert small_run(tmp_path / "run")["plan"] in {"concat", "shared"}


def test_the_fastest_is_taken_if_it_fits(tmp_path, monkeypatch):
    times = {"concat": 3.0, "shared": 1.0, "checkpoint": 4.0}

    def seconds(prepared, images):
        return times[prepared.model.features.denseblock1.plan]

    monkeypatch.setattr(choice, "_seconds_per_image", seconds)
    assert small_run(tmp_path / "fast")["plan"] == "shared"
    times["shared"] = 2.95  # within the noise
    assert small_run(tmp_path / "equal", batch_size=32)["plan"] == "concat"


def test_checkpoint_is_the_last_resort(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_fits", lambda saved, device: False)
    assert small_run(tmp_path / "run")["plan"] == "checkpoint"
