"""Files that are either the old or the new version, whole, whatever happens in between."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from densekit.errors import InvalidInput


def write(path: Path, content: bytes | str | Iterable[str]) -> None:
    """Replaces `path`; after a crash it holds the old or the new content. Of many texts one after the other.

    Raises OSError, also for a `path` that is there and no regular file: a device must not become one.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "it is not a regular file", str(path))
    temporary = path.with_name(f".{path.name}.new")
    texts = (content,) if isinstance(content, bytes | str) else content
    try:
        with temporary.open("wb") as file:
            file.writelines(text.encode() if isinstance(text, str) else text for text in texts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file would keep a full disk full
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes `path`'s place when the block ends well.

    Between the two renames of the swap the old folder is at `.NAME.old`: `recover` finds it.
    """
    fresh, old = path.with_name(f".{path.name}.new"), _old(path)
    recover(path)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:  # a full disk, but also a proof that failed or a key pressed: nothing half-made stays
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(fresh)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `path`, which is new or empty, when the block ends well.

    Of several processes that write to one path the first is kept whole. Raises InvalidInput in the others.
    """
    path = path.resolve()
    fresh = path.with_name(f".{path.name}.{uuid4().hex[:8]}.new")
    fresh.mkdir(parents=True)
    try:
        yield fresh
        sync_folder(fresh)
        fresh.rename(path)  # also onto an empty folder, never onto one with files
    except BaseException as error:  # a full disk, but also a proof that failed or a key pressed: nothing stays
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise InvalidInput(f"another process has written {path} in the meantime; name a new folder") from error
        raise
    sync_folder(path.parent)


def recover(path: Path) -> None:
    """Undoes a swap that a crash cut in two. For the one process that writes; others look at `current`."""
    if not path.exists() and _old(path).exists():
        _old(path).rename(path)


def current(path: Path) -> Path:
    """Where what is called `path` stands now, also within a swap or after one that was cut in two."""
    return path if path.exists() or not _old(path).exists() else _old(path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sync_folder(path: Path) -> None:
    """A rename is on disk only once its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
