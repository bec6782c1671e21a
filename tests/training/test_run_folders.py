"""Where a run goes, and how it goes on from there."""

import re
from pathlib import Path
from typing import Any

import pytest

from densekit import train
from densekit.errors import BadData, InvalidInput
from densekit.runs import run_folder
from densekit.training import train as training
from densekit.training.plan_selection import choose
from tests.faults.command import train_until

NAME = "digits-densenet_bc_10_4"


def test_runs_that_start_together_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one makes its folder while this one still looks for the fastest plan, and between a look and a step."""
    monkeypatch.chdir(tmp_path)
    first_free = run_folder.free_folder
    looks: list[Path] = []

    def slowly(*given: Any) -> Any:
        Path("runs", NAME).mkdir(parents=True)
        return choose(*given)

    def overtaken(parent: Path, name: str) -> Path:
        looks.append(first_free(parent, name))
        if len(looks) == 1:
            looks[0].mkdir()
        return looks[-1]

    monkeypatch.setattr(training, "choose", slowly)
    monkeypatch.setattr(run_folder, "free_folder", overtaken)
    run = train("digits", model="densenet_bc_10_4", epochs=1, settings={"data.limit": 50})
    assert looks == [Path("runs", f"{NAME}-2"), Path("runs", f"{NAME}-3")]
    assert run.folder == looks[-1]


def test_no_place_for_runs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk for them that is not mounted."""
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(tmp_path / "gone")
    with pytest.raises(BadData, match="cannot write the run"):
        train("digits", model="densenet_bc_10_4", epochs=1, settings={"data.limit": 50, "plan": "concat"})


def test_a_link_that_leads_nowhere_is_no_free_place(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "gone")
    assert run_folder.free_folder(tmp_path, "a") == tmp_path / "a-2"


def test_how_to_go_on_has_the_place_of_the_images(tmp_path: Path) -> None:
    """Without it `resume` would look elsewhere, and may download them again."""
    run, images = tmp_path / "run", tmp_path / "my images"
    words: dict[str, Any] = {"model": "densenet_bc_10_4", "epochs": 1, "out": run, "settings": {"data.limit": 50}}
    command = f"densekit resume {run} --data-dir '{images}'"
    assert command in train_until(1, "digits", data_dir=images, **words)
    with pytest.raises(InvalidInput, match=re.escape(command)):
        train("digits", data_dir=images, **words)


def test_after_a_restart_a_program_may_leave_out_what_it_had_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a call is not the one that it was; by its name a run is found nevertheless."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "net"
    run.mkdir(parents=True)
    run_folder.note(run, "start", launch="abc/1/")
    (run / "config.yaml").touch()
    assert training._begun(run, "net", "abc/0/") == run
    assert training._begun(None, "net", "abc/1/") == Path("runs/net")
    assert training._begun(None, "net", "abc/0/") is None
    for launch in ("abd/1/", ""):
        with pytest.raises(InvalidInput, match="holds a run already"):
            training._begun(run, "net", launch)
