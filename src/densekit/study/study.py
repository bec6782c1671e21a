"""`densekit study` as a function: lay out, say what it will cost, run what is missing, gather, report."""

import heapq
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from densekit import atomic, strict_json, threads
from densekit.config import Recipe
from densekit.errors import BadData, DensekitError, Diverged, InvalidInput, UnknownName
from densekit.folders import data_folder
from densekit.formatting import amount, counted, duration
from densekit.models.cost import Cost, cost_of
from densekit.runs import run_folder
from densekit.study import slurm
from densekit.study.builtin import BUILT_IN
from densekit.study.definition import Study, StudyRun, continued, finished, plan_of, read, study_at, write
from densekit.study.grid import Options, lay_out, read_grid, with_options
from densekit.study.report_page import write_study
from densekit.study.results import Findings, gather
from densekit.study.scheduler import Job, Outcome, carry_out
from densekit.terminal import Display, display_of
from densekit.training.plan_selection import choose, speed
from densekit.training.run_estimate import estimate_run
from densekit.training.setup import prepare

_AROUND = 7.0  # seconds that a run takes to load Python's modules, and for its own page


@dataclass(frozen=True)
class Execution:
    """How a study's runs are carried out; changes no number."""

    data_dir: Path | None = None
    jobs: int | None = None
    """Runs side by side; none: as many as there are devices, or cores for their threads."""
    only: Sequence[str] = ()
    """ARM/SEED of the runs to make; none: all. There is no report then."""
    commands: Path | None = None
    slurm: Path | None = None
    """Files to write, in place of running anything."""
    gather: bool = False
    """Only report what is finished."""
    dry_run: bool = False
    """Only say what would be done, and how long it would take."""


@dataclass(frozen=True)
class Studied:
    """Where a study stands, and what was found if it was reported."""

    folder: Path
    found: Findings | None

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"


def study(
    name: str | Path,
    *,
    out: str | Path | None = None,
    options: Options | None = None,
    execution: Execution | None = None,
    console: Console | None = None,
) -> Studied:
    """Runs what is missing of a grid: a built-in name, a YAML file, or the folder of a study that was begun.

    `out` is the study's folder, by default runs/study-NAME; the same command goes on with it. Raises InvalidInput,
    BadData, ProofFailed where `out` holds a grid whose arms are others, Interrupted with every run saved, or, after the
    report, what the first of the failed runs raised.
    """
    execution = execution or Execution()
    folder, laid_out = _begin(name, out, options or Options())
    return carry_on(laid_out, folder, execution, display_of(console))


def _begin(name: str | Path, out: str | Path | None, options: Options) -> tuple[Path, Study]:
    path = Path(name)
    if str(name) in BUILT_IN:
        grid = BUILT_IN[str(name)](options)
    elif path.is_dir():
        if out is not None or options.given():
            said = "--out" if out is not None else f"--{options.given()[0]}"
            raise InvalidInput(
                f"{said} does not go with {name}, a study that was begun; it goes on as {path / 'study.yaml'} says"
            )
        return path, study_at(path)
    elif path.suffix in (".yaml", ".yml") or path.is_file():
        grid = with_options(read_grid(path), options)
    else:
        raise UnknownName(
            "study", str(name), BUILT_IN, hint=f"name one of {', '.join(BUILT_IN)}, a YAML file, or a study's folder"
        )
    return Path(out) if out else Path("runs", f"study-{grid.name}"), lay_out(grid)


def carry_on(laid_out: Study, folder: Path, execution: Execution, display: Display) -> Studied:
    """From whatever is finished in `folder` to what `execution` asks for."""
    if "RANK" in os.environ:
        raise InvalidInput("a study starts its own processes; start it without torchrun (see --commands for hosts)")
    before = read(folder)
    laid_out = _continued(before, laid_out, folder, display)
    wanted = [laid_out.task(name) for name in execution.only] or laid_out.tasks()
    missing = [task for task in wanted if not finished(laid_out, folder, task)]
    if execution.gather:
        return Studied(folder, _report(laid_out, folder, {}))
    if laid_out != before and not execution.dry_run:
        _lay_down(folder, laid_out, before)
    if execution.commands or execution.slurm:
        _hand_out(laid_out, folder, missing, execution, display)
        return Studied(folder, None)
    failed: list[Outcome] = []
    if missing:
        places = _places(execution.jobs, laid_out.threads, len(missing))
        recipes, seconds = _forecast(laid_out, folder, missing, execution.data_dir, display)
        display.log(_time(laid_out, folder, missing, seconds, places))
        if execution.dry_run:
            return Studied(folder, None)
        failed = _run(laid_out, folder, missing, recipes, seconds, places, execution.data_dir, display)
    elif execution.only or execution.dry_run:
        display.log(f"{folder}: {counted(len(wanted), 'run')} finished, nothing to do")
    if execution.only or execution.dry_run:
        _require_all(failed)
        return Studied(folder, None)
    return _result(laid_out, folder, failed, display)


def _continued(before: Study | None, laid_out: Study, folder: Path, display: Display) -> Study:
    """`laid_out` as what was begun in `folder` has it, or as a new study. Raises InvalidInput for another's folder."""
    if before is not None:
        laid_out, said = continued(before, laid_out, folder)
        for line in said:
            display.log(line)
        return laid_out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is there already and holds no study; name a new folder with --out")
    return laid_out.model_copy(update={"threads": _threads(len(laid_out.tasks()))})


def _result(laid_out: Study, folder: Path, failed: Sequence[Outcome], display: Display) -> Studied:
    """Reports what is finished. Raises what the first of the failed runs raised, after the report."""
    found = None
    if any(finished(laid_out, folder, task) for task in laid_out.tasks()):
        found = _report(laid_out, folder, {outcome.job.name: str(outcome.error) for outcome in failed})
        if failed:
            display.log(f"without {counted(len(failed), 'run')} that failed: {folder / 'report.html'}")
    _require_all(failed)
    return Studied(folder, found)


def _lay_down(folder: Path, laid_out: Study, before: Study | None) -> None:
    """Writes study.yaml. Raises InvalidInput where another process has done so meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadData(f"cannot write to {folder}: {error.strerror}; name another folder with --out") from error
    with run_folder.held(folder):
        if read(folder) != before:
            raise InvalidInput(
                f"another process has begun a study in {folder} meanwhile; start again to take part in it"
            )
        write(folder, laid_out)


def _require_all(failed: Sequence[Outcome]) -> None:
    """Raises what the first failure was, with the names of all."""
    if not failed:
        return
    # A run that diverged does so again; another failure may be mended, and is named first.
    first = min(failed, key=lambda outcome: isinstance(outcome.error, Diverged))
    assert first.error is not None
    others = f" (and {counted(len(failed) - 1, 'other run')} failed)" if len(failed) > 1 else ""
    kind = type(first.error)
    raise (kind if kind.__init__ is DensekitError.__init__ else DensekitError)(
        f"{first.job.name}{others}: {first.error}"
    )


def _threads(tasks: int) -> int:
    """Of each run: one where there are runs for all cores, which then do the most; what the user says in any case."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else max(1, threads.cores() // tasks)


def _places(jobs: int | None, count: int, tasks: int) -> list[str]:
    """Where runs go side by side: a CUDA device each, or the CPU."""
    if jobs is not None and jobs < 1:
        raise InvalidInput(f"--jobs {jobs} is not a positive number; pass 1 or more")
    devices = [str(i) for i in range(torch.cuda.device_count())]
    free = jobs or (len(devices) if devices else max(1, threads.cores() // count))
    return [devices[i % len(devices)] if devices else "" for i in range(min(free, tasks))]


def _hand_out(laid_out: Study, folder: Path, missing: list[StudyRun], execution: Execution, display: Display) -> None:
    if not missing:
        raise InvalidInput(f"all runs of {folder} are finished, so there is nothing to hand out; to see: add --gather")
    (folder / "logs").mkdir(exist_ok=True)
    if execution.commands:
        slurm.write(execution.commands, slurm.commands(folder, missing, execution.data_dir))
        display.log(f"{counted(len(missing), 'command')} -> {execution.commands}")
    if execution.slurm:
        slurm.write(execution.slurm, slurm.slurm(laid_out, folder, missing, execution.data_dir))
        display.log(f"an array of {counted(len(missing), 'run')} -> sbatch {execution.slurm}")
    display.log(f"when they are done: densekit study {folder} --gather")


def _forecast(
    laid_out: Study, folder: Path, missing: Sequence[StudyRun], data_dir: Path | None, display: Display
) -> tuple[dict[str, Recipe], dict[StudyRun, float]]:
    """Each arm's recipe with its plan decided, for all seeds alike, and what each run will take, measured here."""
    arms = list(dict.fromkeys(task.arm for task in missing))
    recipes, seconds = {}, {}
    display.log(f"{laid_out.name}: measuring {counted(len(arms), 'arm')} for a forecast")
    width = max(map(len, arms))
    for arm in arms:
        begun = time.monotonic()
        plan = plan_of(laid_out, folder, arm)
        recipe = laid_out.arms[arm].recipe
        prepared = prepare(recipe.model_copy(update={"plan": plan} if plan else {}), data_folder(data_dir))
        if prepared.data.multi_label:
            raise InvalidInput(
                f"{prepared.data.name} gives an image several labels, or one of 0 and 1 (data.binary=label), and a "
                "study compares errors; name data of one class an image"
            )
        cost: Cost = cost_of(prepared.recipe.model)
        with threads.exactly(laid_out.threads):
            prepared, choice = choose(prepared, cost.macs)
            choice = replace(choice, seconds={choice.plan: speed(prepared, cost.macs)})
        recipes[arm] = recipe.model_copy(update={"plan": prepared.recipe.plan})
        training = estimate_run(prepared, choice, cost).seconds
        overhead = time.monotonic() - begun + _AROUND
        for task in missing:
            if task.arm == arm:
                done = len(run_folder.metrics(task.folder(folder))) / recipe.epochs
                seconds[task] = training * (1 - done) + overhead
        images = len(prepared.data.splits["train"])
        display.log(
            f"  {arm:<{width}}  {cost.parameters:>10,} parameters  {amount(cost.macs):>7} MACs  "
            f"{counted(recipe.epochs, 'epoch')} of {images:,} images  about {duration(training)}"
        )
    return recipes, seconds


def _time(
    laid_out: Study, folder: Path, missing: Sequence[StudyRun], seconds: Mapping[StudyRun, float], places: Sequence[str]
) -> str:
    done = len(laid_out.tasks()) - len(missing)
    kept = f", {done} more are done or not asked for" if done else ""
    where = f"{len(places)} at once, {counted(laid_out.threads, 'thread')} each"
    wall = _wall([seconds[task] for task in missing], len(places))
    return f"{counted(len(missing), 'run')}{kept}; {where}: about {duration(wall)} (predicted) -> {folder}"


def _wall(seconds: Sequence[float], places: int) -> float:
    """How long they take in this order, each where there is room first."""
    free = [0.0] * places
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def _run(
    laid_out: Study,
    folder: Path,
    missing: Sequence[StudyRun],
    recipes: Mapping[str, Recipe],
    seconds: Mapping[StudyRun, float],
    places: Sequence[str],
    data_dir: Path | None,
    display: Display,
) -> list[Outcome]:
    """The failures."""
    # Long ones first within a seed, so that none is left running alone at the end.
    order = sorted(missing, key=lambda task: (laid_out.seeds.index(task.seed), -seconds[task]))
    jobs = [
        Job(
            task.name,
            recipes[task.arm].model_copy(update={"seed": task.seed}),
            task.folder(folder),
            folder / "logs" / f"{task.arm}-seed{task.seed}.log",
            str(data_dir) if data_dir else None,
        )
        for task in order
    ]
    by_name = {task.name: task for task in order}
    waiting = list(order)
    spent = predicted = 0.0

    def done(outcome: Outcome) -> None:
        nonlocal spent, predicted
        task = by_name[outcome.job.name]
        waiting.remove(task)
        count = len(order) - len(waiting)
        head = f"[{count:>{len(str(len(order)))}}/{len(order)}] {task.name}: "
        if outcome.error is not None:
            display.log(f"{head}failed: {outcome.error}")
            return
        spent, predicted = spent + outcome.seconds, predicted + seconds[task]
        result = run_folder.result_of(task.folder(folder))
        assert result is not None
        left = _wall([seconds[other] for other in waiting], len(places)) * spent / predicted if waiting else 0.0
        more = f"; about {duration(left)} left" if left else ""
        display.log(f"{head}error {1 - result.score:.2%}, {duration(outcome.seconds)}{more}")

    outcomes = carry_out(jobs, places=places, threads=laid_out.threads, done=done)
    return [outcome for outcome in outcomes if outcome.error is not None]


def _report(laid_out: Study, folder: Path, failed: Mapping[str, str]) -> Findings:
    """Writes study.json, figures/ and report.html."""
    found = gather(laid_out, folder, failed)
    try:
        atomic.write(folder / "study.json", strict_json.dumps(asdict(found), indent=1) + "\n")
        write_study(folder, found)
    except OSError as error:
        raise BadData(
            f"cannot write to {folder}: {error.strerror}; make room there, then: densekit study {folder} --gather"
        ) from error
    return found
