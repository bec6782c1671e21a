"""Of processes that write to one --out at the same moment, one gets it whole and the others are told."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import densekit
from densekit import atomic
from densekit.errors import InvalidInput
from tests.faults.command import ENVIRONMENT

# Both have prepared, and neither has written, when they go on.
TRAIN = """
import sys, time
from pathlib import Path
from densekit.training import train as training
from densekit.cli.main import main

choose = training.choose

def at_once(*given):
    chosen = choose(*given)
    Path(f"ready-{sys.argv[-1]}").touch()
    while len(list(Path().glob("ready-*"))) < 2:
        time.sleep(0.001)
    return chosen

training.choose = at_once
main()
"""


@pytest.mark.slow
def test_two_trainings_leave_one_run(tmp_path: Path) -> None:
    words = ("train", "digits", "--model", "densenet_bc_10_4", "--epochs", "1", "--out", "run", "--set", "plan=concat")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, *words, "--set", "data.limit=60", "--seed", str(seed)],
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    status = [process.returncode for process in started]
    assert sorted(status) == [0, 2], said
    assert "run" in said[status.index(2)].splitlines()[-1]
    winner = 1 + status.index(0)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["seed"] == winner
    card = json.loads((tmp_path / "run/checkpoints/last/config.json").read_text())
    assert card["provenance"]["seed"] == winner
    events = [json.loads(line)["event"] for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert events.count("start") == 1


def _write(path: Path, name: str, barrier: Any, outcomes: Any) -> None:
    try:
        with atomic.fresh_folder(path) as folder:
            (folder / "one").write_text(name)
            barrier.wait(20)
            (folder / "two").write_text(name)
        outcomes.put("done")
    except InvalidInput as error:
        outcomes.put(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("empty", [False, True])
def test_a_folder_has_the_files_of_one_writer(empty: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    if empty:
        (tmp_path / "out").mkdir()
    barrier, outcomes = context.Barrier(2), context.Queue()
    writers = [context.Process(target=_write, args=(tmp_path / "out", name, barrier, outcomes)) for name in "ab"]
    for writer in writers:
        writer.start()
    found = sorted(outcomes.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join(20)
    assert found[1] == "done"
    assert "another process has written" in found[0]
    assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["shard", "analyse", "study"])
def test_so_have_those_of_other_verbs(
    verb: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is there between the look at the folder and the first write."""
    from densekit.analysis import analyse
    from densekit.data import write_shards
    from densekit.study import study

    out = tmp_path / "out"

    def overtaken(work: Callable[..., Any]) -> Callable[..., Any]:
        def first(*given: Any, **named: Any) -> Any:
            done = work(*given, **named)
            out.mkdir()
            (out / ("study.yaml" if verb == "study" else "theirs")).write_text("name: theirs")
            return done

        return first

    target, name = {"shard": (write_shards, "load"), "analyse": (analyse, "run"), "study": (study, "_threads")}[verb]
    monkeypatch.setattr(target, name, overtaken(getattr(target, name)))
    verbs: dict[str, Callable[[], Any]] = {
        "shard": lambda: write_shards.shard("digits", out),
        "analyse": lambda: densekit.analyse(tiny_run, out=out, only=["weights"]),
        "study": lambda: study.study("small-data", out=out),
    }
    with pytest.raises(densekit.errors.DensekitError, match=r"another process|is damaged"):
        verbs[verb]()
    assert len([path for path in out.iterdir() if path.name != ".lock"]) == 1
