"""Folders of the user, where there may be none."""

import os
from pathlib import Path

import pytest

import densekit
from densekit.errors import InvalidInput
from densekit.folders import cache_folder, data_folder, expanded


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a container that runs as a user without an entry: no HOME, and nobody to ask for it."""
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "DENSEKIT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_the_cache_is_a_temporary_folder_of_this_user(homeless: Path) -> None:
    assert cache_folder() == data_folder() == homeless / f"densekit-{os.getuid()}"


def test_a_run_needs_no_home(homeless: Path) -> None:
    run = densekit.train(
        "synthetic:16x16x1:2:40", model="densenet_bc_16_8", epochs=1, out=homeless / "run", settings={"batch_size": 16}
    )
    assert (run.folder / "report.html").is_file()


def test_a_temporary_folder_of_another_user_is_not_taken(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (homeless / f"densekit-{os.getuid()}").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InvalidInput, match="another user's"):
        cache_folder()


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "~nobody-of-this-name"])
def test_a_home_that_is_not_known_is_said_so(path: str) -> None:
    for function in (
        expanded,
        densekit.load,
        lambda path: densekit.train(path),
        lambda path: densekit.train(f"csv:{path}"),
    ):
        with pytest.raises(InvalidInput, match="not known"):
            function(path)


@pytest.mark.parametrize("out", ["n" * 300, "a\0b"])
def test_a_run_cannot_be_written_to_what_is_no_name(out: str) -> None:
    with pytest.raises(InvalidInput, match="cannot hold a run"):
        densekit.train("digits", model="densenet_bc_16_8", epochs=1, out=out)
