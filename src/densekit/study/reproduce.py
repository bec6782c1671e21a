"""`densekit reproduce` as a function: a cell of the paper's tables, run as a study, with evidence of what came out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit import atomic, strict_json
from densekit.config import Recipe, flatten, with_settings
from densekit.errors import BadData, InvalidInput
from densekit.evaluation.evaluate import evaluate
from densekit.metrics.task import document_of
from densekit.study.definition import Arm, Study, StudyRun
from densekit.study.grid import Options
from densekit.study.ledger import Cell, cell_for
from densekit.study.results import Findings
from densekit.study.statistics import summarise
from densekit.study.study import Execution, carry_on
from densekit.terminal import display_of
from densekit.training.resume_check import differences
from densekit.version import __version__

_TEN_CROP = "ten_crop.json"


@dataclass(frozen=True)
class Reproduced:
    """What came out, in percent, and where the evidence stands."""

    cell: Cell
    folder: Path
    evidence: Path
    document: Mapping[str, Any]


def reproduce(
    target: str,
    *,
    out: str | Path | None = None,
    options: Options | None = None,
    execution: Execution | None = None,
    console: Console | None = None,
) -> Reproduced | None:
    """Trains a cell of the ledger with as many seeds as `options` say (one, if they do not), and measures it.

    `options` can shorten the recipe; the evidence then says so, and is not complete. Cells of one training share its
    runs. `out` is by default runs/reproduce/COLUMN-MODEL; the same command goes on there. None where `execution` only
    says or hands out what is to be run. Raises what `study` raises, UnknownName for a cell that is not in the ledger.
    """
    execution, options = execution or Execution(), options or Options()
    cell = cell_for(target)
    study, changes = _study(cell, options)
    assert cell.training is not None
    folder = Path(out) if out else Path("runs", "reproduce", cell.training.replace("/", "-").replace(":", "-"))
    done = carry_on(study, folder, execution, display_of(console))
    if done.found is None:
        return None
    found = done.found
    errors = _ten_crop(study, folder, found, execution.data_dir, console) if cell.ten_crop else _single(found)
    document = _document(cell, study, found, errors, changes)
    evidence = folder / ("evidence-10crop.json" if cell.ten_crop else "evidence.json")
    _write(evidence, strict_json.dumps(document, indent=1) + "\n")
    return Reproduced(cell, folder, evidence, document)


def _study(cell: Cell, options: Options) -> tuple[Study, list[str]]:
    """The cell as a grid of one arm, and what of the ledger's recipe the options change."""
    whole = cell.recipe()
    for name in ("data", "recipe"):
        if getattr(options, name) is not None:
            raise InvalidInput(f"--{name} makes it another number than the paper's; train it with: densekit train")
    settings: dict[str, Any] = {"data.limit": options.limit} if options.limit else {}
    settings |= {"epochs": options.epochs} if options.epochs else {}
    recipe = with_settings(whole, settings | options.settings)
    arm = Arm(recipe=recipe.model_copy(update={"seed": 0}), series=recipe.model.name)
    claim = f"the paper: {cell.claimed:g} %" if cell.claimed is not None else "the paper prints no number"
    study = Study(
        name=str(cell.training),
        question=f"{recipe.model.name} on {cell.title}: {claim}",
        seeds=tuple(range(options.seeds or 1)),
        arms={recipe.model.name: arm},
    )
    return study, _changes(whole, recipe)


def _changes(whole: Recipe, recipe: Recipe) -> list[str]:
    before, now = (flatten(each.model_dump(mode="json")) for each in (whole, recipe))
    return [text for key, text in differences(before, now).items() if key != "seed"]


def _single(found: Findings) -> dict[int, float]:
    return {row.seed: row.error for row in found.runs}


def _ten_crop(
    study: Study, folder: Path, found: Findings, data_dir: Path | None, console: Console | None
) -> dict[int, float]:
    """Errors by seed; each is kept beside its run, as it takes ten times as long to measure."""
    errors = {}
    for row in found.runs:
        run = StudyRun(row.arm, row.seed).folder(folder)
        kept = run / _TEN_CROP
        if not kept.is_file():
            result = evaluate(run, split=found.split, ten_crop=True, data_dir=data_dir, console=console)
            _write(kept, strict_json.dumps(document_of(result), indent=1) + "\n")
        errors[row.seed] = 1 - float(json.loads(kept.read_text(encoding="utf-8"))["top1"])
    return errors


def _document(
    cell: Cell, study: Study, found: Findings, errors: Mapping[int, float], changes: list[str]
) -> dict[str, Any]:
    summary = summarise([100 * error for error in errors.values()])
    claimed = cell.claimed
    return {
        "cell": cell.id,
        "source": cell.source,
        "claimed": claimed,
        "mean": summary.mean,
        "deviation": summary.deviation,
        "difference": summary.mean - claimed if claimed is not None else None,
        "seeds": list(errors),
        "errors": [100 * error for error in errors.values()],
        "unit": "top-1 error, %",
        "ten_crop": cell.ten_crop,
        # Only a whole recipe with all its seeds may stand in the ledger.
        "complete": not changes and not found.missing,
        "changes": changes,
        "missing": found.missing,
        "deviations": list(cell.deviations),
        "split": found.split,
        "images": found.images,
        "hours": sum(row.seconds for row in found.runs) / 3600,
        "machines": found.machines,
        "command": cell.command,
        "recipe": study.arms[found.runs[0].arm].recipe.model_dump(mode="json"),
        "densekit": __version__,
    }


def _write(path: Path, text: str) -> None:
    try:
        atomic.write(path, text)
    except OSError as error:
        raise BadData(f"cannot write {path}: {error.strerror}; make room there, and run the same again") from error
