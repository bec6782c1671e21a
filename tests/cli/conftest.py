"""A run that several verbs use."""

from pathlib import Path

import pytest

from densekit import train
from tests.conftest import write_photos


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows the classes of `write_photos`."""
    root = tmp_path_factory.mktemp("whole")
    settings = {"data.image_size": 16, "batch_size": 8}
    photos = write_photos(root / "photos", size=44)
    return train(str(photos), model="densenet_bc_10_4", epochs=1, out=root / "run", settings=settings).folder
