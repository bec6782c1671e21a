"""Reads a foreign file in a process of its own: python -m densekit.weights.foreign.sandboxed_reader FILE FOLDER [KEY].

Files of weights come from anywhere. Here nothing in them is executed, and what a damaged or malicious one can use up is
bounded before its first byte is read: memory, processor time, disk.
"""

import json
import resource
import sys
from contextlib import suppress
from pathlib import Path

from densekit import strict_json
from densekit.errors import BadWeights, DensekitError, InvalidInput
from densekit.weights.foreign.raw_checkpoint import RawCheckpoint

MIB = 2**20
_MAGIC_BYTES = 8
_ERRORS = {"BadWeights": BadWeights, "InvalidInput": InvalidInput}


def room_for(size: int) -> int:
    """Bytes of tensors that a file of `size` bytes may hold: compressed ones hold more than they are long."""
    return 4 * size + 64 * MIB


def cpu_seconds(size: int) -> int:
    """Processor time that reading so many bytes may take, importing torch included."""
    return 60 + size // (10 * MIB)


def limit(size: int) -> None:
    """Bounds this process, which has imported what it needs, for a file of `size` bytes."""
    room = room_for(size)
    wanted = {
        # Three copies: as read, as tensors, as written; and what torch and the allocator map beside them.
        resource.RLIMIT_AS: _mapped() + 3 * room + 512 * MIB,
        resource.RLIMIT_CPU: cpu_seconds(size),
        resource.RLIMIT_FSIZE: 2 * room,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with suppress(ValueError, OSError):  # macOS does not bound memory this way; time it does
            resource.setrlimit(kind, (value, value))


def _mapped() -> int:
    """Bytes of addresses in use; 0 where the system does not tell, and there is no limit on them either."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


def read(path: Path, folder: Path, key: str | None) -> RawCheckpoint:
    """By the file's first bytes; its name says nothing. Raises BadWeights or InvalidInput."""
    from densekit.weights.foreign import hdf5, pickles, plain_tensors, unsupported_formats

    unsupported_formats.refuse_shards(path)
    room = room_for(path.stat().st_size)
    with path.open("rb") as file:
        magic = file.read(_MAGIC_BYTES)
    if magic.startswith(b"\x89HDF"):
        return hdf5.read(path, None, room)
    if magic.startswith(b"PK") and hdf5.is_keras(path):
        return hdf5.read_keras(path, folder, room)
    if plain_tensors.begins(path):
        return plain_tensors.read(path, room)
    unsupported_formats.refuse_other_formats(path)
    return pickles.read(path, key, room)


def main() -> None:
    """Writes what FILE holds into FOLDER, or `error.json`."""
    import torch  # noqa: F401  # before the limits, which are for the file

    path, folder, *key = sys.argv[1:]
    limit(Path(path).stat().st_size)
    try:
        read(Path(path), Path(folder), key[0] if key else None).write(Path(folder))
    except DensekitError as error:
        kind = "InvalidInput" if isinstance(error, InvalidInput) else "BadWeights"
        answer = (kind, str(error))
    except MemoryError:
        answer = ("BadWeights", f"{path} asks for more memory than weights in a file of its size need; fetch it again")
    else:
        return
    (Path(folder) / "error.json").write_text(strict_json.dumps(answer))


def error_in(folder: Path) -> DensekitError | None:
    """What `main` could not do."""
    answer = folder / "error.json"
    if not answer.exists():
        return None
    kind, message = json.loads(answer.read_text())
    return _ERRORS[kind](message)


if __name__ == "__main__":
    main()
