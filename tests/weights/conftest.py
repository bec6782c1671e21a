"""Reading foreign weights without a process for each file."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor

from densekit.weights.foreign import sandboxed_reader
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint


def _read(path: Path, key: str | None = None) -> RawCheckpoint:
    with TemporaryDirectory() as folder:
        return sandboxed_reader.read(path, Path(folder), key)


@pytest.fixture(scope="module")
def read_in_process() -> Iterator[None]:
    """Imports read their file in this process: its limits have tests of their own, and torch takes long to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densekit.weights.foreign.importer.read", _read)
        yield


def saved(state: dict[str, Tensor], folder: Path) -> Path:
    """A state dict as FOLDER/weights.pth."""
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"
