"""A run that several ways of evaluating are tried with."""

from pathlib import Path

import pytest

from tests.conftest import write_photos


@pytest.fixture(scope="session")
def three_class_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of photos of apes, cats and dogs, small enough to be trained in a second."""
    from densekit import train

    root = tmp_path_factory.mktemp("three")
    photos = write_photos(root / "photos", classes=("ape", "cat", "dog"), count=10)
    settings = {"data.image_size": 16, "batch_size": 8, "plan": "concat"}
    return train(photos, model="densenet_bc_10_4", epochs=2, out=root / "run", settings=settings).folder
