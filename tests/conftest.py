"""Fixtures that several tests share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

from tests.data.xrays import SETTINGS, write_xrays

if TYPE_CHECKING:
    from densekit import Run

Command = Callable[..., tuple[int, str, str]]
"""Runs `densekit ARGUMENTS`: (status, standard output, standard error)."""

# How long an example takes says nothing on a machine that other tests share.
settings.register_profile("densekit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("densekit")


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes what was measured on this machine for its user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _data_dir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache."""
    monkeypatch.setenv("DENSEKIT_DATA", str(tmp_path_factory.getbasetemp() / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow on two free cores takes minutes more on a machine that is busy."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))


def write_photos(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), count: int = 12, size: int = 40) -> Path:
    """A folder of PNGs, one subfolder a class; bright where the class number is odd, so that it can be learned."""
    random = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 120, (size, size + i % 3, 3), dtype=np.uint8) + np.uint8(120 * (label % 2))
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def spoil(path: Path) -> None:
    """Leaves the header, so that only decoding finds out."""
    path.write_bytes(path.read_bytes()[:1000])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """The command line, run in this process and in the folder `tmp_path`."""
    from densekit.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["densekit", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), *capfd.readouterr()

    return run


@pytest.fixture
def densekit(command: Command) -> Command:
    """`command` by the name of the program, for tests that do not import the package under it."""
    return command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of made chest X-rays."""
    return write_xrays(tmp_path_factory.mktemp("xrays"), patients=100)


@pytest.fixture(scope="session")
def xray_run(xrays: Path, tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A multi-label run that is long enough to have learned something."""
    from densekit import train

    out = tmp_path_factory.mktemp("runs") / "xrays"
    settings = SETTINGS | {"select": "best"}
    return train(f"csv:{xrays}", model="densenet_bc_10_8", epochs=8, out=out, settings=settings)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on a part of the digits."""
    from densekit import train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {"data.limit": 300, "batch_size": 50}
    return train("digits", model="densenet_bc_10_8", epochs=2, out=out, settings=settings).folder
