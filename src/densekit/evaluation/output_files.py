"""What `evaluate --out DIR` writes: report.html, metrics.json and predictions.csv.

Shapes: N images of the split.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from densekit import atomic, strict_json
from densekit.config import DataConfig
from densekit.csv_cells import lines, path_cell, text_cell
from densekit.data import Images
from densekit.data.sets import FileImages, groups_of
from densekit.data.sources.expected import Expected
from densekit.data.sources.registry import place_of
from densekit.data.sources.table_rows import TableRows, rows_of
from densekit.data.together import SplitImages
from densekit.errors import BadData, InvalidInput
from densekit.evaluation.held_out import Measured
from densekit.inference.classifier import Classifier
from densekit.metrics.multi_label import MultiLabelRecords
from densekit.metrics.single_label import Records as SingleLabelRecords
from densekit.metrics.single_label import SingleLabel
from densekit.metrics.task import Records, Result, Task, document_of
from densekit.metrics.thresholds import UNDECIDED

REPORT, METRICS, PREDICTIONS = "report.html", "metrics.json", "predictions.csv"
_FIRST = ("path", "split")


@dataclass(frozen=True)
class Read:
    """How the data were read."""

    config: DataConfig
    expected: Expected


def as_document(result: Result) -> dict[str, Any]:
    """What `evaluate --json` prints: without the time it took, the same question has the same answer."""
    return {key: value for key, value in document_of(result).items() if key != "seconds"}


def keeping_scores(task: Task) -> Task:
    """The task whose records hold the probability of each class."""
    return replace(task, keep_scores=True) if isinstance(task, SingleLabel) else task


def check_out(out: str | Path) -> None:
    """Raises InvalidInput unless `out` is new, an empty folder, or an earlier evaluation, which is replaced."""
    folder = Path(out)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InvalidInput(f"--out {folder} is a file; name a folder")
    try:
        names = set(os.listdir(folder))
        ours = {REPORT, METRICS, PREDICTIONS}
        known = ours | {f".{name}.new" for name in ours}  # which a process that was killed leaves
        if not names or (names <= known and (names.isdisjoint(ours) or _is_ours(folder / PREDICTIONS))):
            return
    except OSError as error:
        raise InvalidInput(f"--out {folder} cannot be read: {error.strerror}; name another folder") from error
    raise InvalidInput(f"--out {folder} holds other files than those of an evaluation; name a new or empty folder")


def _is_ours(table: Path) -> bool:
    head = ",".join(_FIRST).encode()
    try:
        with table.open("rb") as file:
            return file.read(len(head)) == head
    except FileNotFoundError:
        return False


def write_files(
    out: str | Path,
    result: Result,
    records: Records,
    classifier: Classifier,
    chosen: Measured,
    read: Read,
    notes: Sequence[str],
    *,
    ten_crop: bool,
) -> None:
    """Writes the three files; metrics.json last, so that where it is all are.

    `chosen` are the images, `read` is how they were read, `notes` are what was said about the choice of the images.
    Raises BadData where they cannot be written.
    """
    from densekit.evaluation.report_page import Evaluated, write_evaluation  # slow to import: it draws
    from densekit.report.pictures import Measured as Shown

    card, folder = classifier.card, Path(out)
    measured = Shown(
        chosen.images,
        classifier.classes,
        card.preprocessing,
        read.config.max_pixels,
        classifier.task.decisions(),
        thresholds_chosen=any(threshold != UNDECIDED for threshold in card.thresholds),
        chose_thresholds=read.expected.is_own and result.split == "val",
    )
    rows = rows_for(chosen, records, classifier.task, read)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METRICS).unlink(missing_ok=True)
        atomic.write(folder / PREDICTIONS, rows)
        write_evaluation(
            folder / REPORT,
            Evaluated(
                result,
                records,
                measured,
                classifier.model,
                classifier.device,
                card.task,
                read.config.source,
                tuple(notes),
                ten_crop,
            ),
        )
        atomic.write(folder / METRICS, strict_json.dumps(as_document(result)) + "\n")
    except OSError as error:
        if made:
            _remove(folder)
        raise BadData(f"cannot write to {folder}: {error.strerror}; name another folder with --out") from error


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for name in (PREDICTIONS, REPORT):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def rows_for(chosen: Measured, records: Records, task: Task, read: Read) -> Iterator[str]:
    """The lines of predictions.csv, a row an image, as they are asked for. Raises BadData for a table that is gone."""
    named = _names_of(chosen.images, read)
    columns = _columns(records, task)
    first = (*_FIRST, *columns.head)
    table = [f"table_{name}" if name in first else name for name in named.others]
    samples = records.sample.tolist()
    rows = (
        (named.path(sample), chosen.split_of(sample), *columns.row(row), *named.cells(sample))
        for row, sample in enumerate(samples)
    )
    return lines((*first, *table), rows)


@dataclass(frozen=True)
class _Named:
    """What identifies an image, and what else is known about it."""

    path: Callable[[int], str]
    others: tuple[str, ...]
    cells: Callable[[int], Sequence[str]]


def _names_of(images: Images, read: Read) -> _Named:
    """Paths relative to the folder or as the table has them; of other data what identifies an image there."""
    config, place = read.config, place_of(read.config.source)
    table = None
    if config.source.startswith("csv:") and place is not None:
        table = rows_of(place, config, read.expected)
    if isinstance(images, SplitImages):
        return _of_splits(images, {split: _of_part(part, table, place) for split, part in images.parts.items()})
    return _of_part(images, table, place)


def _of_splits(images: SplitImages, named: Mapping[str, _Named]) -> _Named:
    """Each image as its own split names it."""
    every = {each.others for each in named.values()}
    others = every.pop() if len(every) == 1 else ()

    def path(sample: int) -> str:
        split, at = images.place(sample)
        return named[split].path(at)

    def cells(sample: int) -> Sequence[str]:
        split, at = images.place(sample)
        return named[split].cells(at) if others else ()

    return _Named(path, others, cells)


def _of_part(images: Images, table: TableRows | None, place: Path | None) -> _Named:
    if isinstance(images, FileImages) and table is not None:
        return _of_table(images, table)
    groups = groups_of(images)
    others = () if groups is None else ("group",)

    def cells(sample: int) -> Sequence[str]:
        return () if groups is None else (text_cell(groups[sample]),)

    if not isinstance(images, FileImages):
        return _Named(lambda sample: path_cell(images.name(sample)), others, cells)
    # imagenet is below the folder of all data sets.
    roots = (place, images.root.parent) if place is not None else (images.root.parent,)

    def path(sample: int) -> str:
        file = images.paths[sample]
        root = next((root for root in roots if file.is_relative_to(root)), None)
        return path_cell(file if root is None else file.relative_to(root).as_posix())

    return _Named(path, others, cells)


def _of_table(images: FileImages, table: TableRows) -> _Named:
    def path(sample: int) -> str:
        return path_cell(table.rows[images.paths[sample]].path)

    def cells(sample: int) -> Sequence[str]:
        return table.rows[images.paths[sample]].others

    return _Named(path, table.others, cells)


@dataclass(frozen=True)
class _Columns:
    """What is said of each image."""

    head: tuple[str, ...]
    row: Callable[[int], Sequence[str]]
    """Of the record at that position."""


def _columns(records: Records, task: Task) -> _Columns:
    if isinstance(records, MultiLabelRecords):
        return _of_several(records, task.classes, task.decisions())
    return _of_one(records, task.classes)


def _of_one(records: SingleLabelRecords, classes: tuple[str, ...]) -> _Columns:
    names, scores = [text_cell(name) for name in classes], records.score
    assert scores is not None

    def row(i: int) -> Sequence[str]:
        target, predicted = int(records.target[i]), int(records.predicted[i])
        # More digits than the network, in float32, has.
        shares = (f"{score:.9g}" for score in scores[i].tolist())
        return (names[target], names[predicted], str(int(target == predicted)), *shares)

    return _Columns(("label", "predicted", "correct", *_each("probability", classes)), row)


def _of_several(records: MultiLabelRecords, classes: tuple[str, ...], thresholds: tuple[float, ...]) -> _Columns:
    def row(i: int) -> Sequence[str]:
        targets, scores = records.target[i].tolist(), records.score[i].tolist()
        taken = [score >= threshold for score, threshold in zip(scores, thresholds, strict=True)]
        # NaN, where a label is not known, is not itself.
        labels = ["" if target != target else str(int(target)) for target in targets]
        right = all(target != target or (target == 1) == there for target, there in zip(targets, taken, strict=True))
        return (*labels, *(str(int(there)) for there in taken), str(int(right)), *map(repr, scores))

    head = (*_each("label", classes), *_each("predicted", classes), "correct", *_each("probability", classes))
    return _Columns(head, row)


def _each(what: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text_cell(f"{what}_{name}") for name in classes)
