"""A study laid out: a whole recipe for each arm, the runs that it takes, and what has changed since it was begun."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, PositiveInt, ValidationError

from densekit import atomic
from densekit.config import Frozen, Recipe, describe, flatten
from densekit.errors import BadData, InvalidInput, ProofFailed, UnknownName
from densekit.formatting import counted
from densekit.parsing import read_yaml
from densekit.runs import run_folder
from densekit.training.resume_check import differences
from densekit.training.setup import absolute_paths

FILE = "study.yaml"

# What only the data and the machine know, and training fills in.
_FILLED = (
    "plan",
    "device",
    "join_last_image",
    "shuffle_by_seed",
    "data.binary",
    "model.in_channels",
    "model.num_classes",
    "model.image_size",
)
# What changes when and where the same numbers are computed, not which (training.resume_check).
_FREE = ("checkpoint.", "data.workers", "data.max_bad", "divergence.rollbacks", "trackers")


def _of_one_label(recipe: Recipe) -> Recipe:
    """Two values of a table's column are two classes where nothing else is set, as a study compares errors."""
    if recipe.data.binary is not None or not recipe.data.source.startswith("csv:"):
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"binary": "classes"})})


class Arm(Frozen):
    """One of the things that are compared."""

    recipe: Annotated[Recipe, AfterValidator(_of_one_label)]
    """With seed 0; a run has its own."""
    series: str
    at: float | None = None


class Study(Frozen):
    """study.yaml: everything that is to be run, and compared."""

    name: str
    question: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    arms: Annotated[dict[str, Arm], Field(min_length=1)]
    comparisons: tuple[tuple[str, str], ...] = ()
    axis: str | None = None
    costs: bool = False
    threads: PositiveInt = 1
    """Of each run: its number decides the last bits, so it does not change with how many run side by side."""

    def tasks(self) -> "list[StudyRun]":
        """Every run, seed by seed, so that a study that is stopped early has all arms."""
        return [StudyRun(arm, seed) for seed in self.seeds for arm in self.arms]

    def task(self, name: str) -> "StudyRun":
        """The run called ARM/SEED. Raises UnknownName."""
        for task in self.tasks():
            if task.name == name:
                return task
        raise UnknownName("run of the study", name, [task.name for task in self.tasks()])

    def recipe(self, task: "StudyRun") -> Recipe:
        """What the run trains."""
        return self.arms[task.arm].recipe.model_copy(update={"seed": task.seed})


@dataclass(frozen=True)
class StudyRun:
    """One run of a study."""

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.arm}/{self.seed}"

    def folder(self, study: Path) -> Path:
        """Where the run stands."""
        return study / "runs" / self.arm / f"seed{self.seed}"


def write(folder: Path, study: Study) -> None:
    """study.yaml in `folder`, which is made. Raises BadData."""
    text = yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, width=120)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(folder / FILE, text)
    except OSError as error:
        raise BadData(f"cannot write to {folder}: {error.strerror}; name another folder with --out") from error


def read(folder: Path) -> Study | None:
    """What was begun in `folder`, if anything. Raises BadData for a damaged study.yaml."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Study.model_validate(read_yaml(path))
    except (OSError, ValueError) as error:
        reason = describe(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise BadData(f"{path} is damaged ({reason}); mend it, or name another folder with --out") from error


def continued(before: Study, now: Study, folder: Path) -> tuple[Study, list[str]]:
    """`now` in the place of `before`, and what is to be said about that.

    More or fewer seeds and arms are said: each run stands for itself. Raises ProofFailed for an arm that is no longer
    the same, as its finished runs would be of another recipe than the others.
    """
    now, said = _split_as_before(before, now)
    changed = {arm: _changes(before.arms[arm].recipe, now.arms[arm].recipe) for arm in now.arms if arm in before.arms}
    if other := _together({arm: found for arm, found in changed.items() if found}, len(before.arms)):
        raise ProofFailed(
            f"{folder} holds another grid, since these have changed: {'; '.join(other)}; put them back, or name "
            "another folder with --out"
        )
    said += [
        *_membership("arm", before.arms, now.arms),
        *_membership("seed", map(str, before.seeds), map(str, now.seeds)),
    ]
    return now.model_copy(update={"threads": before.threads}), said


def _split_as_before(before: Study, now: Study) -> tuple[Study, list[str]]:
    """A study of a version without stratified splits goes on without them, for all its runs to see the same images."""
    if any(arm.recipe.data.stratify for arm in before.arms.values()):
        return now, []
    if not all(arm.recipe.data.stratify for arm in now.arms.values()):
        return now, []
    arms = {}
    for name, arm in now.arms.items():
        data = arm.recipe.data.model_copy(update={"stratify": False})
        arms[name] = arm.model_copy(update={"recipe": arm.recipe.model_copy(update={"data": data})})
    return now.model_copy(update={"arms": arms}), ["the splits stay those of the study's other runs: not stratified"]


def _changes(before: Recipe, now: Recipe) -> list[str]:
    found = differences(_flat(before), _flat(now))
    return [text for key, text in found.items() if not key.startswith(_FREE)]


def _flat(recipe: Recipe) -> dict[str, Any]:
    return flatten(absolute_paths(recipe).model_dump(mode="json"))  # older studies have relative paths


def _together(changed: dict[str, list[str]], arms: int) -> list[str]:
    """What many arms have in common is said once."""
    by_text: dict[str, list[str]] = {}
    for arm, texts in changed.items():
        for text in texts:
            by_text.setdefault(text, []).append(arm)
    return [
        f"{text} ({'every arm' if len(named) == arms else f'arm {named[0]}' if len(named) == 1 else _few(named)})"
        for text, named in by_text.items()
    ]


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"arms {shown}" if len(names) <= 3 else f"arms {shown} and {len(names) - 3} more"


def _membership(what: str, before: Iterable[str], now: Iterable[str]) -> list[str]:
    then, here = list(before), list(now)
    added, gone = [name for name in here if name not in then], [name for name in then if name not in here]
    said = []
    if added:
        said.append(f"new in the grid: {counted(len(added), what)} ({', '.join(added)})")
    if gone:
        said.append(f"no longer in the grid: {counted(len(gone), what)} ({', '.join(gone)}); runs are kept, not shown")
    return said


def finished(study: Study, folder: Path, task: StudyRun) -> bool:
    """Whether the run is done. Raises ProofFailed where its folder holds a run of another recipe."""
    run = task.folder(folder)
    if not (run / "config.yaml").is_file():
        return False
    differing = differences(_flat(study.recipe(task)), _flat(run_folder.recipe_of(run)))
    other = [text for key, text in differing.items() if not key.startswith((*_FREE, *_FILLED))]
    if other:
        raise ProofFailed(
            f"{run} is not the run that the study wants: {'; '.join(other)}; move it away, or name another folder "
            "with --out"
        )
    return (run / "result.json").is_file()


def plan_of(study: Study, folder: Path, arm: str) -> str | None:
    """The execution plan that the arm's runs have so far: the later ones take the same, for the same bits."""
    for task in study.tasks():
        run = task.folder(folder)
        if task.arm == arm and (run / "config.yaml").is_file():
            plan = run_folder.recipe_of(run).plan
            return plan if plan != "auto" else None
    return None


def study_at(folder: Path) -> Study:
    """The study in `folder`. Raises InvalidInput where there is none."""
    study = read(folder)
    if study is None:
        raise InvalidInput(f"{folder} holds no study (no {FILE}); name one to begin, such as: densekit study ablation")
    return study
