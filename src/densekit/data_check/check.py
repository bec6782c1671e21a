"""`densekit data` as functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit.config import DataConfig, with_data_settings
from densekit.data import load
from densekit.data.split import divide
from densekit.data_check.inspection import Check
from densekit.data_check.inspection import check as examine
from densekit.data_check.report_page import write_data_report
from densekit.default_dtype import float32_default
from densekit.errors import BadData, InvalidInput
from densekit.folders import data_folder
from densekit.terminal import display_of


@float32_default()
def check(
    data: str | Path,
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
    config = with_data_settings(DataConfig(source=str(data), stratify=True), settings or {}).as_trained()
    page = None if out is None else Path(out)
    if page is not None and (page.is_dir() or not page.absolute().parent.is_dir()):
        raise InvalidInput(f"--out {page} cannot be written; name a file in a folder that exists, such as check.html")
    loaded = load(config, data_folder(data_dir), strict=False)
    divided = divide(loaded, config)
    total = sum(map(len, divided.splits.values()))
    with display_of(console).counting("looking at images", total) as advance:
        found = examine(
            divided,
            config,
            group=group,
            divided=set(divided.splits) != set(loaded.splits),
            advance=advance,
        )
    if page is not None:
        try:
            write_data_report(page, found, config)
        except OSError as error:
            raise BadData(f"cannot write {page}: {error.strerror}; name another file with --out") from error
    return found
