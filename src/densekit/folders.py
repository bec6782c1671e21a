"""Folders of the user, which a process in a container may not have."""

import os
import tempfile
from pathlib import Path

import platformdirs

from densekit.errors import InvalidInput


def cache_folder() -> Path:
    """Where densekit keeps what it can make again; a temporary folder of this user where there is no home.

    Raises InvalidInput where that belongs to somebody else.
    """
    try:
        return platformdirs.user_cache_path("densekit")
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"densekit-{os.getuid()}"
    if os.path.lexists(folder) and folder.lstat().st_uid != os.geteuid():
        raise InvalidInput(f"there is no home folder, and {folder} is another user's; set HOME to a folder of yours")
    return folder


def data_folder(given: str | Path | None = None) -> Path:
    """Where data sets are kept: `given`, else $DENSEKIT_DATA, else the user's cache folder; absolute."""
    return expanded(given or os.environ.get("DENSEKIT_DATA") or cache_folder()).absolute()


def expanded(path: str | Path) -> Path:
    """The path, its ~ replaced. Raises InvalidInput where that user has no home, or there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidInput(f"{path} begins in a home folder that is not known; write the whole path") from None
