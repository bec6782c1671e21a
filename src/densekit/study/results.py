"""What the finished runs of a study say together."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densekit.errors import BadData, InvalidInput
from densekit.metrics.single_label import Result
from densekit.models.cost import Cost, as_published, cost_of
from densekit.runs import run_folder
from densekit.study.definition import Study, StudyRun, finished
from densekit.study.statistics import Comparison, Summary, compare, needed, summarise, words_on

# Of a run's env.json: what makes two machines different.
_MACHINE = ("densekit", "torch", "processor", "cores", "threads", "kernels", "cuda", "platform")


@dataclass(frozen=True)
class Row:
    """One finished run. Errors are shares."""

    arm: str
    seed: int
    error: float
    """Of the reported split; of the weights that the recipe reports."""
    loss: float
    train_error: float | None
    """Of the last epoch, taken while the weights change, on augmented images."""
    epochs: int
    seconds: float
    """Of training."""
    plan: str
    machine: int
    """Position in `Findings.machines`."""


@dataclass(frozen=True)
class ArmFindings:
    """An arm's runs together."""

    name: str
    model: str
    series: str
    at: float | None
    parameters: int
    macs: int
    """As the paper counts them, of one image."""
    macs_run: int
    """As they are computed here: transitions pool first."""
    depth: int
    epochs: int
    images: int
    """Trained on."""
    error: Summary
    train_error: Summary | None
    seconds: Summary


@dataclass(frozen=True)
class Need:
    """What a family of networks costs at the error of one arm of another family."""

    arm: str
    series: str
    error: float
    parameters: float | None
    macs: float | None
    bound: str
    """at: the values; more: all of the family err more; less: all err less."""


@dataclass(frozen=True)
class Findings:
    """study.json."""

    name: str
    question: str
    data: str
    split: str
    images: int
    """The errors are of."""
    seeds: tuple[int, ...]
    axis: str | None
    costs: bool
    arms: list[ArmFindings]
    comparisons: list[Comparison]
    needs: list[Need]
    runs: list[Row]
    missing: list[str]
    """Runs, ARM/SEED, that are not done; what is said above is without them."""
    failed: dict[str, str]
    """Those of them that failed, and why."""
    machines: list[dict[str, Any]]
    cautions: list[str]
    words: list[str]
    """What the tests can say and cannot."""


def gather(study: Study, folder: Path, failed: Mapping[str, str] | None = None) -> Findings:
    """Of the runs that are finished. Raises InvalidInput where there is none, BadData where they do not belong
    together.
    """
    done = [task for task in study.tasks() if finished(study, folder, task)]
    if not done:
        raise InvalidInput(f"{folder} has no finished run yet; begin with: densekit study {folder}")
    results = {task: _result(task.folder(folder)) for task in done}
    _require_same_images(study, folder, results)
    machines: list[dict[str, Any]] = []
    rows = [_row(task, task.folder(folder), results[task], machines) for task in done]
    arms = [_arm(study, folder, name, own) for name in study.arms if (own := [row for row in rows if row.arm == name])]
    errors = {arm.name: {row.seed: row.error for row in rows if row.arm == arm.name} for arm in arms}
    comparisons = compare(errors, study.comparisons)
    first = results[done[0]]
    missing = [task.name for task in study.tasks() if task not in results]
    return Findings(
        name=study.name,
        question=study.question,
        data=first.data,
        split=first.split,
        images=first.count,
        seeds=study.seeds,
        axis=study.axis,
        costs=study.costs,
        arms=arms,
        comparisons=comparisons,
        needs=_needs(arms) if study.costs else [],
        runs=rows,
        missing=missing,
        failed={name: why for name, why in (failed or {}).items() if name in missing},
        machines=machines,
        cautions=_cautions(arms, rows, machines, missing),
        words=words_on(min(len(c.seeds) for c in comparisons), len(comparisons)) if comparisons else [],
    )


def _result(run: Path) -> Result:
    try:
        result = run_folder.result_of(run)
    except (ValueError, TypeError, KeyError) as error:
        raise BadData(
            f"{run / 'result.json'} is damaged ({error}); remove it, and the run is measured again"
        ) from error
    if not isinstance(result, Result):
        raise InvalidInput(f"{run} gives an image several labels, and a study compares errors; name data of one label")
    return result


def _require_same_images(study: Study, folder: Path, results: Mapping[StudyRun, Result]) -> None:
    """Errors are compared, and so have to be of the same images."""
    measured = {}
    for task, result in results.items():
        checkpoint = task.folder(folder) / "checkpoints" / "last" / "state.json"
        try:
            images = json.loads(checkpoint.read_text(encoding="utf-8"))["made_by"]["data"][result.split]
        except (OSError, ValueError, KeyError, TypeError):
            images = None  # a folder of which only the results were kept
        measured[task.name] = (result.data, result.split, result.count, images)
    known = Counter(found for found in measured.values() if found[3] is not None)
    usual = known.most_common(1)[0][0] if known else next(iter(measured.values()))
    odd = [name for name, found in measured.items() if found[:3] != usual[:3] or found[3] not in (None, usual[3])]
    if odd:
        raise BadData(
            f"{', '.join(odd)} of {folder} was measured on other images than the others; give all machines the same "
            f"data, remove {'it' if len(odd) == 1 else 'them'}, and run {study.name} again"
        )


def _row(task: StudyRun, run: Path, result: Result, machines: list[dict[str, Any]]) -> Row:
    epochs, recipe = run_folder.metrics(run), run_folder.recipe_of(run)
    environment = run_folder.environment_of(run)
    machine = {key: environment.get(key) for key in _MACHINE}
    if machine not in machines:
        machines.append(machine)
    last = epochs[-1] if epochs else {}
    return Row(
        arm=task.arm,
        seed=task.seed,
        error=1 - result.top1,
        loss=result.loss,
        train_error=1 - last["train_top1"] if "train_top1" in last else None,
        epochs=recipe.epochs,
        seconds=float(last.get("seconds", 0.0)),
        plan=recipe.plan,
        machine=machines.index(machine),
    )


def _arm(study: Study, folder: Path, name: str, rows: list[Row]) -> ArmFindings:
    arm = study.arms[name]
    run = StudyRun(name, rows[0].seed).folder(folder)
    model = run_folder.recipe_of(run).model
    published = cost_of(as_published(model))
    here: Cost = cost_of(model) if as_published(model) != model else published
    trained = [row.train_error for row in rows if row.train_error is not None]
    return ArmFindings(
        name=name,
        model=model.name,
        series=arm.series,
        at=arm.at,
        parameters=published.parameters,
        macs=published.macs,
        macs_run=here.macs,
        depth=published.depth,
        epochs=rows[0].epochs,
        images=_trained_on(run),
        error=summarise([row.error for row in rows]),
        train_error=summarise(trained) if trained else None,
        seconds=summarise([row.seconds for row in rows]),
    )


def _trained_on(run: Path) -> int:
    with (run / "split.csv").open(encoding="utf-8") as lines:
        return sum(line.startswith("train,") for line in lines)


def _needs(arms: list[ArmFindings]) -> list[Need]:
    """For each arm of the first series: what each other series would cost at its error."""
    series = list(dict.fromkeys(arm.series for arm in arms))
    needs = []
    for arm in arms:
        for other in series[1:] if arm.series == series[0] else ():
            members = [each for each in arms if each.series == other]
            parameters, bound = needed(arm.error.mean, [(each.parameters, each.error.mean) for each in members])
            macs, _ = needed(arm.error.mean, [(each.macs, each.error.mean) for each in members])
            needs.append(Need(arm.name, other, arm.error.mean, parameters, macs, bound))
    return needs


def _cautions(
    arms: list[ArmFindings], rows: list[Row], machines: list[dict[str, Any]], missing: list[str]
) -> list[str]:
    """What a reader must know before believing a comparison."""
    cautions = []
    if missing:
        cautions.append(f"{len(missing)} of {len(missing) + len(rows)} runs are missing: {', '.join(missing)}.")
    if len(machines) > 1:
        cautions.append(
            f"The runs were made in {len(machines)} different environments (below), so equal seeds need not give equal "
            "bits; what else that changes, no test here can tell."
        )
    mixed = [arm.name for arm in arms if len({row.plan for row in rows if row.arm == arm.name}) > 1]
    if mixed:
        cautions.append(
            f"Runs of {', '.join(mixed)} were executed by different plans: the same function, other rounding."
        )
    return cautions
