"""What a server keeps on disk while it runs."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from densekit.errors import BadData
from densekit.inference.exported_network import is_exported
from densekit.weights import model_folder
from densekit.weights.folder import CONFIG, WEIGHTS


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder, locked: who clears old ones away leaves it then, as tmpfiles.d(5) says."""
    with TemporaryDirectory(prefix="densekit-serve-") as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield Path(name)
        finally:
            os.close(descriptor)


def copied(model: str, folder: Path) -> str:
    """MODEL as it is now: while workers come and go a run may be trained further, and a branch of the Hub move.

    An exported file stays where it is. Raises what `weights.model_folder` raises, BadData without room for a copy.
    """
    if is_exported(model):
        return model
    source, place = model_folder(model), folder / "model"
    place.mkdir()
    try:
        for name in (CONFIG, WEIGHTS):
            copyfile(source / name, place / name)
    except OSError as error:
        raise BadData(
            f"{model} cannot be copied to {folder} ({error.strerror}); make room there, set TMPDIR to another place, "
            "or start again where it was being written"
        ) from error
    return str(place)
