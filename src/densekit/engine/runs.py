"""A run folder: what was asked, where it ran, what was in which split, a row an epoch, the result."""

import csv
import json
import os
import platform
import shlex
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision
import yaml

from densekit import ops
from densekit.config import Recipe, recipe_from
from densekit.data import DataSet
from densekit.engine.evaluate import Result
from densekit.errors import BadData, InvalidInput
from densekit.version import __version__
from densekit.weights import atomic


def create(folder: Path, recipe: Recipe, data: DataSet) -> None:
    """Starts a run folder. Raises InvalidInput if it holds a run already, BadData if it cannot be written."""
    if (folder / "config.yaml").exists():
        raise InvalidInput(f"{folder} holds a run already; name another --out, or go on with: densekit resume {folder}")
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_recipe(folder, recipe)
        atomic.write(folder / "env.json", json.dumps(environment(), indent=2) + "\n")
        with (folder / "split.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("split", "image", "class"))
            for split, images in data.splits.items():
                for name, label in zip(images.names(), images.labels.tolist(), strict=True):
                    writer.writerow((split, name, data.classes[label]))
    except OSError as error:
        raise BadData(
            f"cannot write the run to {folder}: {error.strerror}; name a folder you may write to with --out"
        ) from error


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """config.yaml: the resolved recipe."""
    atomic.write(folder / "config.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def recipe_of(folder: Path) -> Recipe:
    """The recipe of an existing run. Raises BadData where there is none, or a damaged one."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise BadData(f"{folder} is not a run: it has no config.yaml; name the folder that training printed")
    try:
        return recipe_from(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, InvalidInput) as error:
        raise BadData(f"{path} is damaged ({error}); mend it, or train again") from error


def environment() -> dict[str, Any]:
    """Versions, machine and command of this process."""
    return {
        "densekit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
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


def append_row(folder: Path, row: dict[str, Any]) -> None:
    """Adds an epoch to metrics.jsonl, and writes metrics.csv anew from it.

    A row of an epoch that is there already, from before a crash, is replaced.
    """
    rows = [old for old in metrics(folder) if old["epoch"] < row["epoch"]] + [row]
    atomic.write(folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
    keys = list(dict.fromkeys(key for r in rows for key in r))
    lines = [",".join(keys), *(",".join(str(r.get(key, "")) for key in keys) for r in rows)]
    atomic.write(folder / "metrics.csv", "\n".join(lines) + "\n")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; none if there is no epoch yet."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write_result(folder: Path, result: Result) -> None:
    """result.json: the metrics of the reported split."""
    atomic.write(folder / "result.json", json.dumps(asdict(result), indent=2) + "\n")


def write_skipped(folder: Path, data: DataSet) -> None:
    """skipped.csv: the image files that could not be used, if any."""
    if data.skipped.files:
        with (folder / "skipped.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "code", "message"))
            writer.writerows((path, error.code, error) for path, error in data.skipped.files.items())
