"""What `predict --csv FILE` writes: a row an image, streamed; FILE is there when all rows are."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from densekit import atomic
from densekit.csv_cells import path_cell, text_cell
from densekit.data.image_files import ImageFile
from densekit.errors import BadData, BadImage, InvalidInput
from densekit.inference.classifier import Classifier, Prediction

_FIRST = ("path", "predicted", "probability")
_ERRORS = ("error_code", "error")

Row = Callable[[ImageFile, Prediction | BadImage], None]
"""Writes the row of an image, of what came of it."""


@contextmanager
def prediction_table(file: str | Path, classifier: Classifier) -> Iterator[Row]:
    """Yields what writes a row; FILE takes its place when the block ends well, and an earlier table's.

    Columns: path, predicted, probability; of a multi-label model predicted_CLASS, whether the class is present (1, 0);
    probability_CLASS; error_code and error of an image that cannot be read. Of a model of one label predicted is empty
    where the label is absent.

    Raises InvalidInput for a `file` that holds something else, BadData where it cannot be written.
    """
    path = Path(os.path.realpath(file))
    _check(path)
    several, classes = classifier.task.kind == "multi-label", classifier.classes
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.new")
    with _refusal(file):
        stream = temporary.open("x", encoding="utf-8", newline="")
    writer = csv.writer(stream)

    def write(image: ImageFile, outcome: Prediction | BadImage) -> None:
        with _refusal(file):
            writer.writerow(_cells(image.name, outcome, len(classes), several=several))

    try:
        with _refusal(file):
            writer.writerow(_head(classes, several=several))
        yield write
        with _refusal(file):
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)
            atomic.sync_folder(path.parent)
    finally:
        with suppress(OSError):  # a full disk refuses what is left to write, too
            stream.close()
        temporary.unlink(missing_ok=True)


@contextmanager
def _refusal(file: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadData(f"cannot write {file}: {error.strerror}; name another file with --csv") from error


def _check(path: Path) -> None:
    """Raises InvalidInput unless `path` is new, empty, or such a table."""
    if not path.parent.is_dir():
        raise InvalidInput(f"--csv {path}: there is no folder {path.parent}; make it, or name another")
    if not path.exists():
        return
    if not path.is_file():
        raise InvalidInput(f"--csv {path} is no regular file; name a new one")
    head = ",".join(_FIRST).encode()
    with path.open("rb") as stream:
        if stream.read(len(head)) not in (b"", head):
            raise InvalidInput(f"--csv {path} is there already, and is no table of predictions; name a new file")


def _head(classes: Sequence[str], *, several: bool) -> tuple[str, ...]:
    present = tuple(text_cell(f"predicted_{name}") for name in classes) if several else ()
    return (*_FIRST, *present, *(text_cell(f"probability_{name}") for name in classes), *_ERRORS)


def _cells(name: str, outcome: Prediction | BadImage, classes: int, *, several: bool) -> tuple[str, ...]:
    if isinstance(outcome, BadImage):
        empty = ("",) * (classes * (2 if several else 1) + 2)
        return (path_cell(name), *empty, outcome.code, text_cell(str(outcome)))
    scores = [f"{score:.9g}" for score in outcome.probabilities.tolist()]  # nine digits give a float32 back exactly
    best = int(outcome.probabilities.argmax())
    present = [str(int(there)) for there in outcome.reached] if several else []
    # Of one label the most probable class would be that label whatever the answer.
    named = "" if classes == 1 and not outcome.present else text_cell(outcome.classes[best])
    return (path_cell(name), named, scores[best], *present, *scores, "", "")
