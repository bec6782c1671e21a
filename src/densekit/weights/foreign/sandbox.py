"""A foreign file -> its tensors, through a process with limits."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from densekit.child_process import thread_counts, with_this_package
from densekit.errors import BadWeights
from densekit.weights.foreign import sandboxed_reader
from densekit.weights.foreign.normalisation import PUBLISHED_MD5, PUBLISHED_SHA256
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint

_BYTES_A_SECOND = 5_000_000  # of the slowest disk we wait for
_PATIENCE = 120.0  # seconds, for starting Python and torch on a busy machine


def read(path: Path, key: str | None = None) -> RawCheckpoint:
    """What is in `path`; `key` chooses one of several networks. Raises BadWeights or InvalidInput."""
    size = _size(path)
    with TemporaryDirectory(prefix="densekit-import-") as folder:
        # -P: a file called torch.py beside the weights is not to be imported.
        command = [sys.executable, "-P", "-m", sandboxed_reader.__name__, str(path), folder, *([key] if key else [])]
        patience = _PATIENCE + size / _BYTES_A_SECOND
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=patience)
        except subprocess.TimeoutExpired:
            raise BadWeights(
                f"reading {path} took more than {patience:.0f} s and was stopped; fetch it again"
            ) from None
        if (error := sandboxed_reader.error_in(Path(folder))) is not None:
            raise error
        if done.returncode:
            raise BadWeights(_why(path, size, done))
        return RawCheckpoint.read(Path(folder))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_published(path: Path, sha256: str) -> bool:
    """Whether a file is one that torchvision or Keras publishes, by the hash that they give for it."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return sha256.startswith(PUBLISHED_SHA256) or md5 in PUBLISHED_MD5


def _size(path: Path) -> int:
    try:
        size = path.stat().st_size
        path.open("rb").close()
    except FileNotFoundError:
        if path.is_symlink():
            raise BadWeights(
                f"{path} is a link to {path.readlink()}, which is not there; fetch what it stands for (git-annex: git "
                f"annex get {path.name})"
            ) from None
        raise BadWeights(f"no file {path}") from None
    except OSError as error:
        raise BadWeights(f"cannot read {path}: {error.strerror}") from error
    if not size:
        raise BadWeights(f"{path} is empty; fetch it again")
    return size


def _environment() -> dict[str, str]:
    """Without the switches by which torch would load pickles in full, and with one thread, as memory is counted."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORCH_", "PYTHONWARNINGS"))}
    return with_this_package(kept) | thread_counts(1)


def _why(path: Path, size: int, done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == -signal.SIGXCPU:
        return f"reading {path} took more than {sandboxed_reader.cpu_seconds(size)} s of processor time; fetch it again"
    lines = done.stderr.strip().splitlines()
    if done.returncode < 0 or not lines:
        return f"{path} is damaged: its reader ended with signal {-done.returncode}; fetch it again"
    if any(word in lines[-1] for word in ("MemoryError", "alloc", "memory")):
        return f"{path} asks for more memory than weights in a file of its size need; fetch it again"
    return f"{path} cannot be read: {lines[-1]}; fetch it again"
