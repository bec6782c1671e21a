"""A run folder: what was asked, where it ran, what was in which split, a row an epoch, the result."""

import csv
import errno
import fcntl
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy
import PIL
import torch
import torchvision
import yaml

from densekit import atomic, ops, strict_json
from densekit.config import Recipe, recipe_from
from densekit.data import DataSet, Images
from densekit.data.sets import groups_of, label_names
from densekit.errors import BadData, InvalidInput
from densekit.formatting import printable
from densekit.metrics.multi_label import MultiLabelRecords
from densekit.metrics.task import Result, document_of, result_from
from densekit.parsing import JSON_BYTES, Malformed, parse_json, read_json, read_text, read_yaml
from densekit.version import __version__

STATE_JSON = "state.json"
"""Beside the weights of a checkpoint: progress, and what the run must still be for an exact continuation."""

_PATIENCE = 40.0  # seconds
_BRIEFLY = 5.0


def require_none(folder: Path) -> None:
    """Raises InvalidInput if `folder` holds a run already, or cannot be looked into, such as one of too long a name.

    Raises BadData if it is a file, or below one.
    """
    try:
        os.stat(folder / "config.yaml")
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise BadData(f"cannot write the run to {folder}, a file or below one; name a folder with --out") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(f"{str(folder)[:80]!a} cannot hold a run: {reason}; name another --out") from error
    raise InvalidInput(f"{folder} holds a run already; name another --out, or go on with: {resuming(folder)}")


def create(folder: Path, recipe: Recipe, data: DataSet, **facts: Any) -> None:
    """Starts a run folder, and notes that with these facts.

    Raises InvalidInput if it holds a run already, BadData if it cannot be written.
    """
    require_none(folder)
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        atomic.write(folder / "env.json", strict_json.dumps(environment(), indent=2) + "\n")
        grouped = any(groups_of(images) for images in data.splits.values())
        head = ("split", "image", "class", "group") if grouped else ("split", "image", "class")
        atomic.write(folder / "split.csv", _csv(head, _members(data)))
        note(folder, "start", **facts)
        write_recipe(folder, recipe)  # last: a folder without it is not yet a run
    except OSError as error:
        raise BadData(
            f"cannot write the run to {folder}: {error.strerror}; name a folder you may write to with --out"
        ) from error


def _members(data: DataSet) -> Iterator[tuple[str, ...]]:
    for split, images in data.splits.items():
        groups = groups_of(images)
        names = (images.name(i) for i in range(len(images)))
        columns = [names, label_names(images.labels, data.classes), *([] if groups is None else [groups])]
        yield from ((split, *row) for row in zip(*columns, strict=True))


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """config.yaml: the resolved recipe."""
    atomic.write(folder / "config.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def recipe_of(folder: Path) -> Recipe:
    """The recipe of an existing run. Raises BadData where there is none, or a damaged one."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise BadData(f"{folder} is not a run: it has no config.yaml; name the folder that training printed")
    try:
        return recipe_from(read_yaml(path))
    except (OSError, Malformed, InvalidInput) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BadData:
    return BadData(f"{path} is damaged ({error}); restore it from a copy, or train again")


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
    return {
        "densekit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,  # which decodes and resizes
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "kernels": ops.kernels(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment_of(folder: Path) -> dict[str, Any]:
    """What `environment` said when the run began; empty where env.json is gone. Raises BadData for a damaged file."""
    path = folder / "env.json"
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except (OSError, TypeError, ValueError) as error:
        raise BadData(f"{path} is damaged ({error}); restore it from a copy, or remove it") from error


def append_row(folder: Path, row: dict[str, Any]) -> None:
    """Adds an epoch to metrics.jsonl, and writes metrics.csv anew from it.

    A row of an epoch that is there already, from before a crash, is replaced.
    """
    rows = [old for old in metrics(folder) if old["epoch"] < row["epoch"]] + [row]
    atomic.write(folder / "metrics.jsonl", "".join(strict_json.dumps(r) + "\n" for r in rows))
    keys = list(dict.fromkeys(key for r in rows for key in r))
    lines = [",".join(keys), *(",".join(str(r.get(key, "")) for key in keys) for r in rows)]
    atomic.write(folder / "metrics.csv", "\n".join(lines) + "\n")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without what is undefined; none if there is no epoch yet.

    Raises BadData for a damaged file.
    """
    path = folder / "metrics.jsonl"
    try:
        rows = [parse_json(line) for line in read_text(path, JSON_BYTES).splitlines()] if path.is_file() else []
        return [{key: value for key, value in row.items() if value is not None} for row in rows]
    except (OSError, AttributeError, Malformed) as error:
        raise _damaged(path, error) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises BadData for what the file system refuses inside; what was whole before is whole after."""
    try:
        yield
    except OSError as error:
        raise BadData(
            f"cannot write to {folder}: {error.strerror}; the last checkpoint is whole: make room there, then go on "
            f"with: {resuming(folder)}"
        ) from error


def resuming(folder: Path) -> str:
    """The command that goes on with a run, with the --data-dir that was last given: elsewhere are no images."""
    words = ["densekit", "resume", str(folder)]
    with suppress(OSError):  # a disk that cannot be read either
        given = data_dir_of(folder)
        words += ["--data-dir", given] if given else []
    return shlex.join(words)


def data_dir_of(folder: Path) -> str | None:
    """The --data-dir that was last given to a run, if any."""
    return next((event["data_dir"] for event in reversed(_events(folder)) if event.get("data_dir")), None)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Makes a folder for a new run and keeps it to this process.

    Raises InvalidInput where it holds a run, or another process has it, BadData where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(
            f"cannot write the run to {folder}: {error.strerror}; name a folder you may write to with --out"
        ) from error
    with held(folder, _BRIEFLY):
        require_none(folder)
        yield


@contextmanager
def held(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Keeps a run to this process while it trains. Raises InvalidInput where another one has it for longer than it
    takes the processes of a killed torchrun to notice.
    """
    with writing(folder):
        lock = (folder / ".lock").open("w")
    with lock as file:
        until = time.monotonic() + patience
        while not _locked(file):
            if time.monotonic() > until:
                raise InvalidInput(f"another process is training {folder}; wait for it, or stop it")
            time.sleep(0.2)
        try:
            yield
        finally:
            with suppress(OSError):  # not left to the closing: decoding processes were forked with the open file
                fcntl.flock(file, fcntl.LOCK_UN)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks; a run there is better trained without one than not at all.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True


def belongs_to(folder: Path, launch: str) -> bool:
    """Whether processes whose launch begins so have started or resumed this run."""
    return (
        bool(launch)
        and (folder / "config.yaml").exists()
        and any(event.get("launch", "").startswith(launch) for event in _events(folder))
    )


def last_event(folder: Path) -> dict[str, Any]:
    """What `note` noted last; empty if that is nothing."""
    return next(reversed(_events(folder)), {})


def _events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(Malformed):  # a full disk may have cut it short
            events.append(parse_json(line))
    return [event for event in events if isinstance(event, dict)]


def note(folder: Path, event: str, **facts: Any) -> None:
    """Adds a line to events.jsonl: when a run was started, stopped, continued, and what had changed."""
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts}
    with writing(folder), (folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(strict_json.dumps(line) + "\n")


def result_of(folder: Path) -> Result | None:
    """What a finished run measured; None where there is no result yet.

    Raises BadData for a damaged file, and for the result of a run that diverged unnoticed, as older versions wrote it.
    """
    path = folder / "result.json"
    try:
        result = result_from(read_json(path)) if path.is_file() else None
    except (OSError, TypeError, Malformed) as error:
        raise _damaged(path, error) from error
    if result is not None and result.loss is None:
        raise BadData(f"{path} holds a loss that is not finite: the run diverged; train again at a lower learning rate")
    return result


def forget_result(folder: Path) -> None:
    """Before training goes on: what was measured is no longer the run's."""
    (folder / "result.json").unlink(missing_ok=True)


def write_result(folder: Path, result: Result) -> None:
    """result.json: the metrics of the reported split."""
    atomic.write(folder / "result.json", strict_json.dumps(document_of(result), indent=2) + "\n")


def write_predictions(folder: Path, images: Images, classes: Sequence[str], records: MultiLabelRecords) -> None:
    """predictions.csv: for each image of the reported split its labels, empty where not known, and probabilities."""
    rows = (
        # NaN is not itself.
        (images.name(sample), *("" if value != value else str(int(value)) for value in target), *map(repr, score))
        for sample, target, score in zip(
            records.sample.tolist(), records.target.tolist(), records.score.tolist(), strict=True
        )
    )
    head = ("image", *classes, *(f"{name} probability" for name in classes))
    atomic.write(folder / "predictions.csv", _csv(head, rows))


def write_skipped(folder: Path, data: DataSet) -> None:
    """skipped.csv: the image files that could not be used, if any."""
    if data.skipped.files:
        rows = (tuple(row.values()) for row in data.skipped.rows())
        atomic.write(folder / "skipped.csv", _csv(("path", "code", "message"), rows))


def _csv(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Line by line: of a million images the whole text would be 200 MB for a moment."""
    writer = csv.writer(_Echo())
    yield writer.writerow(head)
    yield from (writer.writerow(map(printable, row)) for row in rows)


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, text: str) -> str:
        return text


def free_folder(parent: Path, name: str) -> Path:
    """`parent/name`, or with a number where that exists."""
    name = name.replace(":", "-")
    taken = 1
    while os.path.lexists(parent / (name if taken == 1 else f"{name}-{taken}")):  # also a link that leads nowhere
        taken += 1
    return parent / (name if taken == 1 else f"{name}-{taken}")


def claim_folder(parent: Path, name: str) -> Path:
    """A new folder `parent/name`, or with a number, of this process alone: another may look at the same moment.

    Where none can be made, its path: who writes to it says what is wrong.
    """
    while True:
        folder = free_folder(parent, name)
        try:
            folder.parent.mkdir(exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if os.path.lexists(folder):
                continue
        except OSError:
            pass
        return folder
