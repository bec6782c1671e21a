"""The image files below a folder, and the pictures there that are not used, with the reason.

Every scan of a folder goes through here: training, evaluation, prediction and `data check` see the same files.
"""

import os
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from densekit.data.decoding.decode import IMAGE_SUFFIXES, begins_like_an_image
from densekit.errors import BadData
from densekit.formatting import counted, printable

# Pictures that densekit does not read, whatever is in them.
_OTHER_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".tga", ".exr", ".hdr"),
        *(".svg", ".svgz", ".psd", ".xcf", ".eps"),
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".raf", ".rw2", ".orf", ".pef", ".srw", ".x3f"),
    )
)
# What operating systems, network disks and tools write beside pictures; also every name that begins with a dot.
_LITTER = frozenset(
    (
        *("__macosx", "icon\r"),
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "~snapshot"),
        *("lost+found", "lost.dir", "__pycache__"),
    )
)
# Files by which a folder is known that densekit has written.
_OUTPUTS = (
    ("config.yaml", "checkpoints"),  # a run
    ("events.jsonl", "env.json"),  # one that stopped early
    ("config.json", "model.safetensors"),
    ("parity.json",),  # an export
    ("study.yaml",),
    ("analysis.json", "report.html"),
    ("metrics.json", "predictions.csv", "report.html"),
)
# Beyond this many files of other suffixes a look into each costs minutes; then only the suffix counts.
_LOOKED_INTO = 200_000
_REASONS = 5


@dataclass(frozen=True)
class Unused:
    """A picture that is not used, and why: words that follow a number."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Scan:
    """What is below a folder, in the order of the paths."""

    images: tuple[Path, ...]
    unused: tuple[Unused, ...]
    outputs: bool
    """Whether densekit has written runs or models there, which are left out."""

    @property
    def pictures(self) -> list[Path]:
        """All of them, used or not."""
        return [*self.images, *(each.path for each in self.unused)]


def scan(folder: Path, *, deep: bool = True, suffixes: Collection[str] = IMAGE_SUFFIXES) -> Scan:
    """The pictures below `folder`, or directly in it if not `deep`. Raises BadData for a folder that cannot be read.

    Links to folders are followed, except upwards and into a folder that was visited. A file that is reached again
    through a link is unused. `suffixes` are those of the files that are looked for.
    """
    found = _Found(suffixes)
    outputs = False
    folders, links = [(str(folder), False)], deque[str]()
    visited = set()
    while folders or links:
        # Real folders first: what is reached twice keeps its own path.
        path, linked = folders.pop() if folders else (links.popleft(), True)
        if (identity := _identity(path)) in visited:
            continue
        visited.add(identity)
        for entry in sorted(visible(path), key=lambda entry: entry.name):
            kind = _kind(entry)
            if kind != "folder":
                found.add(entry, kind, linked=linked or entry.is_symlink())
            elif is_output(entry.path):
                outputs = True
            elif deep and entry.is_symlink():
                links.append(entry.path)
            elif deep:
                folders.append((entry.path, linked))
    images, unused = found.judged()
    return Scan(tuple(images), tuple(unused), outputs)


def subfolders(folder: Path) -> dict[str, Path]:
    """The folders in `folder` by name, sorted, without litter and what densekit has written. Raises BadData."""
    found = {entry.name: folder / entry.name for entry in visible(folder) if _kind(entry) == "folder"}
    return {name: found[name] for name in sorted(found) if not is_output(found[name])}


def summary(unused: Sequence[Unused]) -> str:
    """`48 images are not used: 24 .avif, 24 without a suffix`; empty if there are none."""
    if not unused:
        return ""
    kinds = Counter(each.reason for each in unused).most_common()
    listed = ", ".join(f"{count:,} {printable(reason)}" for reason, count in kinds[:_REASONS])
    verb = "is" if len(unused) == 1 else "are"
    return f"{counted(len(unused), 'image')} {verb} not used: {listed}{', ...' if len(kinds) > _REASONS else ''}"


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is never the user's own picture."""
    return name.startswith(".") or name.lower() in _LITTER


def is_output(folder: str | Path) -> bool:
    """Whether densekit has written this folder: a run, a model, an export, a study, an analysis or an evaluation."""
    return any(all(os.path.lexists(os.path.join(folder, name)) for name in names) for names in _OUTPUTS)


def visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, without litter. Raises BadData."""
    with _readable(folder), os.scandir(folder) as entries:
        return [entry for entry in entries if not is_litter(entry.name)]


@contextmanager
def _readable(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadData(f"cannot read {folder}: {error.strerror}; check its permissions") from error


_Kind = Literal["folder", "file", "broken", "other"]


def _kind(entry: os.DirEntry[str]) -> _Kind:
    try:
        if entry.is_dir():
            return "other" if entry.is_symlink() and _leads_up(entry.path) else "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself, or to where nobody may look
        return "broken"
    return "broken" if entry.is_symlink() and not os.path.exists(entry.path) else "other"


def _leads_up(link: str) -> bool:
    """Whether following a link leads back to where it stands."""
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return here == target or here.startswith(target.rstrip(os.sep) + os.sep)


@dataclass(frozen=True)
class _Found:
    """Files as a scan meets them."""

    suffixes: Collection[str]
    images: list[tuple[str, bool]] = field(default_factory=list)
    """(path, whether it was reached through a link)."""
    others: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, entry: os.DirEntry[str], kind: _Kind, *, linked: bool) -> None:
        """Takes note of what is no folder."""
        if kind == "broken":
            self.broken.append(entry.path)
        elif kind == "file" and _suffix(entry.path) in self.suffixes:
            self.images.append((entry.path, linked))
        elif kind == "file":
            self.others.append(entry.path)

    def judged(self) -> tuple[list[Path], list[Unused]]:
        """(images, unused), both sorted."""
        again = set(_reached_again(self.images)) if any(linked for _, linked in self.images) else set[str]()
        unused = dict.fromkeys(self.broken, "behind broken links") | dict.fromkeys(again, "reached twice through links")
        look = len(self.others) <= _LOOKED_INTO
        for path in self.others:
            if _suffix(path) in _OTHER_SUFFIXES or (look and begins_like_an_image(path)):
                unused[path] = _suffix(path) or "without a suffix"
        images = _in_order(path for path, _ in self.images if path not in again)
        return [Path(path) for path in images], [Unused(Path(path), unused[path]) for path in _in_order(unused)]


def _reached_again(images: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """Paths through links of files that have another path; files' own paths come first."""
    seen = set()
    for path, linked in sorted(images, key=lambda image: (image[1], _key(image[0]))):
        identity = _identity(path)
        if linked and identity in seen:
            yield path
        seen.add(identity)


def _identity(path: str) -> tuple[int, int]:
    with _readable(path):
        status = os.stat(path)
    return status.st_dev, status.st_ino


def _in_order(paths: Iterable[str]) -> list[str]:
    return sorted(paths, key=_key)


def _key(path: str) -> str:
    """Sorts paths as their parts: a separator comes before every character of a name."""
    return path.replace(os.sep, "\0")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
