"""What `predict --sort-into DIR` does: a copy of each image in the folder of its class.

Copies, not hard links: a link is the same file, and a program that edits the sorted picture in place would change the
original. Nothing is overwritten or deleted; an image that is there already, byte for byte, is not copied again.
"""

import filecmp
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from densekit.data.decoding.decode import suffix_of
from densekit.data.file_names import folder_names, numbered
from densekit.data.image_files import ImageFile
from densekit.errors import BadData, BadImage, InvalidInput
from densekit.inference.classifier import Classifier, Prediction

_STANDARD_INPUT = "standard-input"
_OTHERS = ("unsure", "none", "unreadable")


class Sorter:
    """Puts images into folders."""

    def __init__(self, folder: str | Path, classifier: Classifier, min_probability: float = 0.0) -> None:
        """`folder` is new or has other images.

        An image whose most probable class is below `min_probability` goes to `unsure`, one that cannot be read to
        `unreadable`. Of a multi-label model it goes to every class that is present, or to `none`. Raises InvalidInput.
        """
        self.folder = Path(folder)
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise InvalidInput(f"--sort-into {folder} is a file; name a folder")
        if not 0 <= min_probability <= 1:
            raise InvalidInput(f"--min-probability {min_probability:g} is no probability; give a number from 0 to 1")
        self.min_probability = min_probability
        # Classes first: theirs are the names that were given.
        names = folder_names((*classifier.classes, *_OTHERS))
        self._classes, others = names[: len(classifier.classes)], names[len(classifier.classes) :]
        self._unsure, self._none, self._unreadable = others
        self.counts: Counter[str] = Counter()
        """Images by the folder that they went to."""
        self.unplaced: list[str] = []
        """Names of images whose files cannot be read at all, or are not there."""
        self._taken: set[Path] = set()
        self._tried: defaultdict[Path, int] = defaultdict(lambda: 1)

    def without_own(self, images: Iterable[ImageFile]) -> list[ImageFile]:
        """Those that are not in the folders that this sorts into, such as from the last time."""
        own = {os.path.realpath(self.folder / name) for name in (*self._classes, self._unsure, self._none)}
        own.add(os.path.realpath(self.folder / self._unreadable))
        return [
            image
            for image in images
            if callable(image.source) or os.path.realpath(os.path.dirname(image.source)) not in own
        ]

    def place(self, image: ImageFile, outcome: Prediction | BadImage) -> None:
        """Copies an image to where it belongs. Raises BadData where they cannot be written."""
        if not callable(image.source) and not os.path.isfile(image.source):  # a pipe would never end
            self.unplaced.append(image.name)
            return
        try:
            for name in self.folders_of(outcome):
                self._copy(image, name)
        except OSError as error:
            if error.filename == image.source:  # without permission, or removed a moment ago
                self.unplaced.append(image.name)
                return
            raise BadData(
                f"cannot write to {self.folder}: {error.strerror}; name another folder with --sort-into"
            ) from error

    def folders_of(self, outcome: Prediction | BadImage) -> tuple[str, ...]:
        """The names of the folders that an image belongs to."""
        if isinstance(outcome, BadImage):
            return (self._unreadable,)
        scores = outcome.probabilities.tolist()
        if not outcome.thresholds:
            best = int(outcome.probabilities.argmax())
            return (self._classes[best] if scores[best] >= self.min_probability else self._unsure,)
        present = [i for i, there in enumerate(outcome.reached) if there]
        sure = tuple(self._classes[i] for i in present if scores[i] >= self.min_probability)
        return sure or ((self._unsure,) if present else (self._none,))

    def _copy(self, image: ImageFile, name: str) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{uuid4().hex}.new"
        try:
            _write(image, temporary)
            self._settle(temporary, folder, _file_name(image, temporary))
        finally:
            temporary.unlink(missing_ok=True)
        self.counts[name] += 1

    def _settle(self, temporary: Path, folder: Path, name: str) -> None:
        """Gives the file the first name that is free, or that a file with the same bytes has from before."""
        for number in count(self._tried[folder / name]):
            target = folder / numbered(name, number)
            self._tried[folder / name] = number + 1
            if target not in self._taken and _claim(temporary, target):
                self._taken.add(target)
                return


def _file_name(image: ImageFile, content: Path) -> str:
    """The image's own; of a row of a data set its number, with the suffix of the format that it is in."""
    name = os.path.basename(image.name.rstrip("/"))
    if name == "-":
        return _STANDARD_INPUT
    if callable(image.source) and not os.path.splitext(name)[1]:
        with suppress(BadImage):  # which goes to `unreadable`
            return name + suffix_of(content.read_bytes(), name)
    return name


def _write(image: ImageFile, path: Path) -> None:
    source = image.read()
    if isinstance(source, bytes):
        path.write_bytes(source)
        return
    shutil.copyfile(source, path)
    with suppress(OSError):  # some network disks keep their own times
        taken = os.stat(source)
        os.utime(path, ns=(taken.st_atime_ns, taken.st_mtime_ns))


def _claim(temporary: Path, target: Path) -> bool:
    """Whether `target` is now the file, or was before: never over another one."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return target.is_file() and filecmp.cmp(temporary, target, shallow=False)
    except OSError:  # a file system without hard links, as most USB sticks have
        if os.path.lexists(target):
            return target.is_file() and filecmp.cmp(temporary, target, shallow=False)
        temporary.rename(target)
    return True
