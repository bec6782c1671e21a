"""`densekit data` as functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit.api.evaluation import with_data_settings
from densekit.api.run import data_folder, display_of, refuse_planned
from densekit.config import DataConfig
from densekit.data import load
from densekit.data.check import Check
from densekit.data.check import check as examine
from densekit.data.split import divide
from densekit.engine.processes import ALONE
from densekit.errors import BadData, InvalidInput
from densekit.report import write_data_report


def check(
    data: str,
    *,
    group: str | None = None,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Check:
    """All that is wrong with DATA, in the splits that training would make of it; with `out` also as a page.

    `settings` are dotted keys below `data.`; `group` is a regular expression whose first group is, in a file's name,
    what must not be in two splits. Raises BadData where there is nothing to look at, InvalidInput.
    """
    refuse_planned(data)
    config = with_data_settings(DataConfig(source=data), settings or {})
    page = None if out is None else Path(out)
    if page is not None and (page.is_dir() or not page.absolute().parent.is_dir()):
        raise InvalidInput(f"--out {page} cannot be written; name a file in a folder that exists, such as check.html")
    loaded = load(config, data_folder(data_dir), strict=False)
    divided = divide(loaded, config)
    folder = Path(data).expanduser()
    total = sum(map(len, divided.splits.values()))
    with display_of(console, ALONE).counting("looking at images", total) as advance:
        found = examine(
            divided,
            config,
            group=group,
            divided=set(divided.splits) != set(loaded.splits),
            folder=folder if folder.is_dir() else None,
            advance=advance,
        )
    if page is not None:
        try:
            write_data_report(page, found, config)
        except OSError as error:
            raise BadData(f"cannot write {page}: {error.strerror}; name another file with --out") from error
    return found
