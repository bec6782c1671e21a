"""`densekit study`: what is missing is run, what is finished is kept, and both come out the same however it was run."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from densekit.api import Execution, Studied, study
from densekit.errors import BadData, InvalidInput, ProofFailed
from densekit.study import study as studying
from densekit.study.definition import study_at
from densekit.study.grid import Options
from densekit.study.results import gather
from tests.conftest import Command, write_photos
from tests.faults.command import start, state_of
from tests.html_pages import CHROMIUM, looked_at, text_of
from tests.study.conftest import here


@pytest.fixture
def copy(studied: Studied, tmp_path: Path) -> Path:
    return Path(shutil.copytree(studied.folder, tmp_path / "sizes"))


def states(folder: Path) -> dict[str, dict[str, object]]:
    """What every run of a study ended in."""
    return {path.parent.relative_to(folder).as_posix(): state_of(path.parent) for path in folder.rglob("result.json")}


def test_numbers_are_those_of_the_runs(studied: Studied) -> None:
    found = json.loads((studied.folder / "study.json").read_text())
    assert [arm["name"] for arm in found["arms"]] == ["small", "large", "residual"]
    for arm in found["arms"]:
        runs = [studied.folder / "runs" / arm["name"] / f"seed{seed}" for seed in (0, 1)]
        errors = [1 - json.loads((run / "result.json").read_text())["top1"] for run in runs]
        assert arm["error"]["mean"] == pytest.approx(np.mean(errors))
        assert arm["error"]["deviation"] == pytest.approx(np.std(errors, ddof=1))
        rows = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in runs]
        assert arm["train_error"]["mean"] == pytest.approx(1 - np.mean([row["train_top1"] for row in rows]))
        assert arm["images"] == 200
    pairs = [(row["first"], row["second"]) for row in found["comparisons"]]
    assert pairs == [("large", "small"), ("large", "residual")]
    first = found["comparisons"][0]
    means = {arm["name"]: arm["error"]["mean"] for arm in found["arms"]}
    assert first["mean"] == pytest.approx(means["large"] - means["small"])
    assert found["missing"] == []
    assert [need["arm"] for need in found["needs"]] == ["small", "large"]


def test_the_page_holds_everything_itself(studied: Studied) -> None:
    names = {path.name for path in (studied.folder / "figures").iterdir()}
    kinds = ("errors", "costs", "gaps", "differences")
    assert names == {f"{kind}.{suffix}" for kind in kinds for suffix in ("svg", "png")}
    page, text = (studied.folder / "report.html").read_text(), text_of(studied.folder / "report.html")
    assert "Does the larger network err less?" in text
    assert "With 2 seeds the paired t test has 1 degree of freedom" in text
    assert not re.search(r'(?:src|href)="(?!data:)', page)


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_the_page_fits_a_phone_and_loads_nothing(studied: Studied) -> None:
    look = looked_at(studied.report)
    assert look.complaints == []
    assert {url.split(":", 1)[0] for url in look.requests} <= {"file", "data"}
    assert look.overflow <= 0


def test_started_again_it_runs_nothing(
    densekit: Command, copy: Path, grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densekit.study.study.carry_out", lambda *_, **__: pytest.fail("something was run again"))
    (copy / "report.html").unlink()
    status, out, err = densekit("study", grid, "--out", copy, "--json")
    assert status == 0, err
    assert json.loads(out) == json.loads((copy / "study.json").read_text())
    assert (copy / "report.html").is_file()


@pytest.mark.usefixtures("inline")
def test_only_what_is_missing_is_run_and_comes_out_the_same(copy: Path, grid: Path) -> None:
    before = states(copy)
    lost = copy / "runs" / "small" / "seed1"
    shutil.rmtree(lost)
    kept = (copy / "runs" / "large" / "seed0" / "result.json").stat().st_mtime_ns
    study(grid, out=copy)
    assert states(copy) == before
    assert (copy / "runs" / "large" / "seed0" / "result.json").stat().st_mtime_ns == kept


def test_a_changed_grid_is_refused_by_name(densekit: Command, copy: Path, grid: Path) -> None:
    status, out, err = densekit("study", grid, "--out", copy, "--epochs", 3)
    assert (status, out) == (5, "")
    assert "epochs: 2 -> 3 (every arm)" in err
    assert err.count("\n") == 1


def test_a_study_that_was_begun_without_stratified_splits_goes_on_without(
    densekit: Command, copy: Path, grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("densekit.study.study.carry_out", lambda *_, **__: pytest.fail("something was run again"))
    for path in [copy / "study.yaml", *copy.rglob("config.yaml")]:
        assert "stratify: true" in path.read_text()
        path.write_text("".join(line for line in path.read_text().splitlines(True) if "stratify" not in line))
    status, _, err = densekit("study", grid, "--out", copy)
    assert status == 0, err
    assert "not stratified" in err
    assert not any(arm.recipe.data.stratify for arm in study_at(copy).arms.values())


@pytest.mark.usefixtures("inline")
def test_a_study_takes_two_values_of_a_column_as_two_classes_and_so_did_those_begun_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained alone, such a column is one label, which has no error to compare."""
    photos = write_photos(tmp_path / "photos", size=16)
    rows = [f"{path},{int(path.parent.name == 'cat')}" for path in sorted(photos.rglob("*.png"))]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label", *rows]))
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"data: 'csv:{table}'\nepochs: 1\nseeds: 1\nsettings: {{data.image_size: [16, 16], batch_size: 8}}\n"
        "arms: {small: {model: densenet_bc_10_4}}\n"
    )
    study(grid, out=tmp_path / "out")
    (arm,) = json.loads((tmp_path / "out" / "study.json").read_text())["arms"]
    assert 0 <= arm["error"]["mean"] <= 1
    plan = tmp_path / "out" / "study.yaml"
    text = plan.read_text()
    assert "binary: classes" in text
    plan.write_text(text.replace("binary: classes", "binary: null"))
    assert study(grid, out=tmp_path / "out").found is not None
    monkeypatch.setattr("densekit.study.study.carry_out", lambda *_, **__: pytest.fail("something was trained"))
    grid.write_text(grid.read_text().replace("batch_size: 8", "batch_size: 8, data.binary: label"))
    with pytest.raises(InvalidInput, match="a study compares errors; name data of one class an image"):
        study(grid, out=tmp_path / "label")


def test_a_run_of_another_recipe_is_not_taken_for_one_of_ours(copy: Path, grid: Path) -> None:
    config = copy / "runs" / "small" / "seed0" / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 50", "batch_size: 25"))
    with pytest.raises(ProofFailed, match="batch_size: 50 -> 25"):
        study(grid, out=copy)


@pytest.mark.usefixtures("inline")
def test_more_seeds_add_runs_alone(copy: Path, grid: Path, tmp_path: Path) -> None:
    done = study(grid, out=copy, options=Options(seeds=3), execution=Execution(only=["small/2"]))
    assert done.found is None
    assert (copy / "runs" / "small" / "seed2" / "result.json").is_file()
    found = gather(study_at(copy), copy)
    assert found.missing == ["large/2", "residual/2"]
    assert found.arms[0].error.count == 3
    assert "2 of 9 runs are missing: large/2, residual/2." in found.cautions


def test_runs_on_other_images_are_not_compared(copy: Path) -> None:
    state = copy / "runs" / "large" / "seed1" / "checkpoints" / "last" / "state.json"
    document = json.loads(state.read_text())
    document["made_by"]["data"]["test"] = "0" * 16
    state.write_text(json.dumps(document))
    with pytest.raises(BadData, match=r"large/1 of .* was measured on other images"):
        gather(study_at(copy), copy)


def test_other_machines_are_named(copy: Path) -> None:
    environment = copy / "runs" / "large" / "seed1" / "env.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | {"processor": "another"}))
    found = gather(study_at(copy), copy)
    assert len(found.machines) == 2
    assert "2 different environments" in found.cautions[0]


@pytest.mark.usefixtures("inline")
def test_a_run_that_diverges_keeps_no_other_from_its_end(tmp_path: Path, densekit: Command) -> None:
    grid = tmp_path / "rates.yaml"
    grid.write_text(
        "data: digits\nepochs: 3\nseeds: 1\nsettings: {data.limit: 100, batch_size: 10}\narms:\n"
        "  bad: {model: densenet_bc_10_4, settings: {optimizer.lr: 1.0e+12, optimizer.momentum: 0.99}}\n"
        "  good: {model: densenet_bc_10_4}\ncompare: good\n"
    )
    status, _, err = densekit("study", grid, "--out", "rates")
    assert status == 4, err
    assert "bad/0" in err.splitlines()[-1]
    found = json.loads((tmp_path / "rates" / "study.json").read_text())
    assert found["missing"] == ["bad/0"]
    assert "learning rate" in found["failed"]["bad/0"]
    assert [arm["name"] for arm in found["arms"]] == ["good"]
    assert "bad/0 failed" in text_of(tmp_path / "rates" / "report.html")


@pytest.mark.usefixtures("inline")
def test_other_machines_run_lines_of_a_file(densekit: Command, grid: Path, tmp_path: Path) -> None:
    status, _, err = densekit(
        "study", grid, "--out", "far", "--seeds", 1, "--commands", "lines.txt", "--data-dir", "data"
    )
    assert status == 0, err
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["small/0", "large/0", "residual/0"]
    for line in lines[:2]:
        words = line.split()
        assert words[0] == "densekit"
        assert densekit(*words[1:])[0] == 0
    assert not (tmp_path / "far" / "report.html").exists()
    status, out, err = densekit("study", "far", "--gather")
    assert status == 0, err
    assert "1 of 3 runs are missing: residual/0" in out


def test_a_slurm_script_gives_each_element_its_run(densekit: Command, grid: Path, tmp_path: Path) -> None:
    """By bash itself, with a densekit and an scontrol that only say what they were told."""
    assert densekit("study", grid, "--out", "far", "--slurm", "array.sh")[0] == 0
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("densekit", "scontrol"):
        (tools / name).write_text(f'#!/bin/bash\necho {name} "$@"\n')
        (tools / name).chmod(0o700 | stat.S_IEXEC)
    script = (tmp_path / "array.sh").read_text()
    assert "--array=0-5\n" in script
    for element, name in ((0, "small/0"), (5, "residual/1")):
        environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(element)}
        done = subprocess.run(["bash", "array.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stdout == f"densekit study {tmp_path / 'far'} --only {name}\n"
        assert done.returncode == 0, done.stderr
    # Slurm's warning is passed on, and the job goes back into the queue.
    (tools / "densekit").write_text(
        "#!/bin/bash\ntrap 'echo saved; exit 143' TERM\necho begun\nwhile :; do sleep 0.05; done\n"
    )
    environment |= {"SLURM_ARRAY_JOB_ID": "7"}
    process = subprocess.Popen(
        ["bash", "array.sh"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0].splitlines() == ["saved", "scontrol requeue 7_5"]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0


def test_a_forecast_is_given_and_nothing_written(densekit: Command, grid: Path, tmp_path: Path) -> None:
    status, out, err = densekit("study", grid, "--out", "none", "--dry-run", "--jobs", 2)
    assert (status, out) == (0, "")
    assert re.search(r"6 runs; 2 at once, 1 thread each: about \d+ .*\(predicted\)", err)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["ablaton"], 2, "did you mean ablation"),
        (["none.yaml"], 2, "cannot read none.yaml"),
        (["GRID", "--only", "small/7"], 2, "did you mean small/"),
        (["GRID", "--set", "seed=3"], 2, "seed is no setting here"),
        (["GRID", "--set", "optimizer.rate=3"], 2, "unknown setting"),
        (["GRID", "--out", "taken"], 2, "holds no study"),
        (["GRID", "--jobs", "0"], 2, "--jobs 0"),
        (["taken"], 2, "holds no study"),
        (["GRID", "--gather"], 2, "has no finished run yet"),
        (["GRID", "--data", "/no/folder", "--seeds", "1"], 3, "no folder /no/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_studied_is_one_line(
    densekit: Command, grid: Path, tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    got, out, err = densekit("study", *(grid if word == "GRID" else word for word in arguments))
    assert (got, out) == (status, "")
    assert words in err.splitlines()[-1]


def test_a_study_that_was_begun_takes_no_other_settings(densekit: Command, copy: Path) -> None:
    status, _, err = densekit("study", copy, "--epochs", 4)
    assert status == 2
    assert "--epochs does not go with" in err


def test_processes_side_by_side_end_where_one_after_the_other_did(studied: Studied, grid: Path, tmp_path: Path) -> None:
    """To the bit, also of the optimiser's state: a process each, and in this process before."""
    done = study(grid, out=tmp_path / "out", execution=Execution(jobs=2, only=["small/1", "residual/0"]))
    found = states(done.folder)
    assert set(found) == {"runs/small/seed1", "runs/residual/seed0"}
    before = states(studied.folder)
    assert found == {name: before[name] for name in found}


@pytest.mark.marathon
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_study_goes_on_to_the_same_bits(number: int, grid: Path, tmp_path: Path) -> None:
    """Finished runs are not touched, the one under way goes on from its checkpoint, and nobody is left over."""
    text = grid.read_text().replace("epochs: 2", "epochs: 8")
    grid.write_text(text.replace("data: {limit: 200}", "data.limit: 400, checkpoint.every_steps: 5"))
    words = ("study", grid, "--jobs", "1", "--seeds", "1", "--out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studying, "carry_out", here)
        study(grid, out=tmp_path / "whole", options=Options(seeds=1))
    expected = states(tmp_path / "whole")
    assert len(expected) == 3
    process = start(*words, tmp_path / "cut", folder=tmp_path)
    finished: list[Path] = []
    until = time.monotonic() + 200
    while True:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        finished = list((tmp_path / "cut").rglob("result.json"))
        begun = [
            path for path in (tmp_path / "cut").rglob("metrics.jsonl") if not (path.parent / "result.json").exists()
        ]
        if finished and begun:
            break
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    until = time.monotonic() + 30
    while workers_of(tmp_path / "cut"):
        assert time.monotonic() < until, "a run goes on without anybody who waits for it"
        time.sleep(0.1)
    times = {path: path.stat().st_mtime_ns for path in finished}
    study(grid, out=tmp_path / "cut", options=Options(seeds=1), execution=Execution(jobs=2))
    assert states(tmp_path / "cut") == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == times
    events = [json.loads(line)["event"] for line in (begun[0].parent / "events.jsonl").read_text().splitlines()]
    assert events[0] == "start"
    assert "resume" in events


def workers_of(folder: Path) -> list[int]:
    """Processes that have a log of the study open."""
    found = []
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = [os.readlink(path) for path in descriptors.iterdir()]
        except OSError:
            continue  # it has ended, or is another user's
        if any(link.startswith(str(folder / "logs")) for link in links):
            found.append(int(descriptors.parent.name))
    return found


def test_nothing_is_reported_where_nothing_is(grid: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no finished run"):
        study(grid, out=tmp_path / "none", execution=Execution(gather=True))
