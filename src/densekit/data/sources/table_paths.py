"""The paths of a table: how they are spelled, and where files are that are not found."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from densekit.data.decoding.decode import IMAGE_SUFFIXES
from densekit.data.sources.table_file import Table

# Bounds of the search for missing files.
_COUNTED = 200_000
_TRIED = 3
_FOLDERS = 100
_ENTRIES = 1_000
_PARENTS = 3


def with_slashes(names: list[str], root: Path) -> tuple[list[str], tuple[str, ...]]:
    r"""The paths with / for \ and a note of that, if only those exist."""
    some = list(islice((name for name in names if "\\" in name), _TRIED))
    if os.sep == "\\" or any((root / name).exists() for name in some):
        return names, ()
    if not any((root / _slashed(name)).exists() for name in some):
        return names, ()
    return [_slashed(name) for name in names], ("the paths of the table are read with / instead of \\",)


def missing_files(table: Table, column: str, names: Sequence[str], root: Path) -> str | None:
    """One line about files that do not exist and where they may be; none if fewer than two are missing."""
    looked = names[:_COUNTED]
    missing = [name for name in looked if not os.path.isfile(root / name)]
    if len(missing) < 2:
        return None
    number = f"all {len(looked):,}" if len(missing) == len(looked) else f"{len(missing):,} of {len(looked):,}"
    found = _found(missing, root)
    return (
        f"{number} files of {table.path} do not exist: {root / missing[0]} does not exist; "
        f"{_nearby(found, missing, column, root) if found else _nothing(column, root)}"
    )


@dataclass(frozen=True)
class _Spelling:
    """Another way to read a path."""

    change: Callable[[str], str]
    words: str
    """What to do with the cells; empty: nothing."""
    root: Path

    def path(self, name: str) -> Path:
        return self.root / self.change(name)


def _nearby(found: _Spelling, missing: Sequence[str], column: str, root: Path) -> str:
    count = sum(os.path.isfile(found.path(name)) for name in missing)
    name = next(name for name in missing if os.path.isfile(found.path(name)))
    fixes = []
    if found.words:
        fixes.append(f"{found.words} in {column}")
    if found.root != root:
        fixes.append(f"set data.image_root={found.root}")
    return f"{found.path(name)} does, and {count:,} of the {len(missing):,} in this way: {' and '.join(fixes)}"


def _nothing(column: str, root: Path) -> str:
    return (
        f"correct {column}, or set data.image_root to the folder that its paths start from (now {root}); "
        "data.max_bad is how many files may be bad"
    )


def _found(missing: Sequence[str], root: Path) -> _Spelling | None:
    """The first spelling by which one of a few missing files exists."""
    step = max(1, len(missing) // _TRIED)
    roots = [root, *_others(root)]
    for name in missing[::step][:_TRIED]:
        for spelling in _spellings(name, roots):
            if os.path.isfile(spelling.path(name)):
                return spelling
    return None


def _spellings(name: str, roots: Sequence[Path]) -> Iterator[_Spelling]:
    """What is tried for a name, the smallest change first."""
    if Path(name).is_absolute():
        roots = roots[:1]
    suffixes = [(suffix, replaced) for suffix in _suffixes() for replaced in (False, True)]
    for root in roots:
        yield from (_spelling(name, root, 0, *suffix) for suffix in (("", False), *suffixes))
    for cut in range(1, len(_parts(name))):
        yield from (_spelling(name, root, cut, "", False) for root in roots)


def _spelling(name: str, root: Path, cut: int, suffix: str, replaced: bool) -> _Spelling:
    slashed = "\\" in name
    front = "/".join(_parts(name)[:cut]) if cut else ""

    def change(cell: str) -> str:
        text = _slashed(cell) if slashed else cell
        text = "/".join(_parts(text)[cut:]) if cut else text
        return (os.path.splitext(text)[0] if replaced and suffix else text) + suffix

    words = ["write / instead of \\"] if slashed else []
    if cut:
        words.append(f"remove {'/' if name.startswith('/') else ''}{front}/ at the beginning of the paths")
    if suffix:
        words.append(f"{'write the suffix' if replaced else 'append'} {suffix}")
    return _Spelling(change, " and ".join(words), root)


def _suffixes() -> list[str]:
    common = (".png", ".jpg", ".jpeg")
    lower = [*common, *sorted(IMAGE_SUFFIXES - {*common})]
    return [*lower, *(suffix.upper() for suffix in lower)]


def _others(root: Path) -> Iterator[Path]:
    """Folders that the paths may start from: those above, and a bounded number below."""
    yield from islice(root.absolute().parents, _PARENTS)
    level = [root]
    for _ in range(2):
        level = list(islice((path for above in level for path in _subfolders(above)), _FOLDERS))
        yield from level


def _subfolders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(Path(entry.path) for entry in islice(entries, _ENTRIES) if entry.is_dir())
    except OSError:
        return []


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _parts(name: str) -> list[str]:
    return [part for part in _slashed(name).split("/") if part]
