"""The ledger: every published number, with the recipe that is to give it, and what came out where somebody ran it.

Huang et al. 2017, tables 2 and 3, figs 3 and 4; the data stand in ledger.yaml beside this module.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import yaml
from pydantic import Field, NonNegativeFloat, PositiveInt

from densekit.config import DenseNetConfig, ExternalConfig, Frozen, Recipe
from densekit.errors import InvalidInput, UnknownName
from densekit.models.cost import as_published, cost_of
from densekit.models.names import config_for
from densekit.recipes import recipe_for

# Floating-point operations in a second of training that one GPU of a data centre is taken to do in float32, sustained.
# Assumed: no GPU has been measured. Small images keep a GPU busy less than photographs do.
ASSUMED_FLOPS = {"small images": 1.5e12, "photographs": 4e12}
BASIS = (
    "estimate: 3 x forward MACs x 2 operations, over all epochs, at an assumed "
    f"{ASSUMED_FLOPS['small images'] / 1e12:g} TFLOP/s for small images and {ASSUMED_FLOPS['photographs'] / 1e12:g} "
    "TFLOP/s for photographs on one GPU in float32; never measured"
)

Percent = Annotated[float, Field(gt=0, lt=100)]


class Column(Frozen):
    """Data and recipe that a table's column is of."""

    data: str
    recipe: str
    title: str
    images: PositiveInt
    """Trained on, in one epoch."""
    ten_crop: bool = False
    deviations: tuple[str, ...] = ()


class Row(Frozen):
    """A network's errors by column."""

    source: str
    model: str
    claimed: dict[str, Percent]
    unbuilt: str | None = None
    """Why densekit cannot build it."""
    deviations: tuple[str, ...] = ()


class Point(Frozen):
    """Something that a figure shows: a cell of a table, a run, or a study."""

    id: str
    same_as: str | None = None
    column: str | None = None
    model: str | None = None
    title: str | None = None
    study: str | None = None
    """The command."""
    unclaimed: str | None = None
    deviations: tuple[str, ...] = ()


class Measured(Frozen):
    """What `densekit reproduce` found; errors in percent."""

    mean: Percent
    deviation: NonNegativeFloat | None
    """Standard deviation over seeds; None for one."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    evidence: str
    """The file, below the repository."""


class Ledger(Frozen):
    """ledger.yaml."""

    columns: dict[str, Column]
    notes: dict[str, str]
    rows: tuple[Row, ...]
    figures: tuple[Point, ...]
    measured: dict[str, Measured]


class Cell(Frozen):
    """One published number."""

    id: str
    """COLUMN/MODEL, or FIGURE/POINT."""
    source: str
    title: str
    claimed: Percent | None
    """Top-1 error in percent."""
    unclaimed: str | None = None
    """Why there is no number."""
    model: str | None = None
    data: str | None = None
    recipe_name: str | None = None
    images: PositiveInt | None = None
    ten_crop: bool = False
    training: str | None = None
    """Cells of one training have the same: a network is tested by one crop and by ten."""
    deviations: tuple[str, ...] = ()
    unrunnable: str | None = None
    """Why no command gives it."""
    study: str | None = None
    measured: Measured | None = None

    @property
    def command(self) -> str | None:
        """Runs it and writes the evidence."""
        if self.study is not None or self.unrunnable is not None:
            return self.study
        return f"densekit reproduce {self.id} --seeds 3"

    def recipe(self) -> Recipe:
        """All settings. Raises InvalidInput where there is no single training."""
        if self.unrunnable is not None:
            raise InvalidInput(f"{self.id} cannot be run: {self.unrunnable}")
        if self.model is None or self.data is None or self.recipe_name is None:
            raise InvalidInput(f"{self.id} is many runs, not one; run: {self.study}")
        return recipe_for(self.recipe_name, self.data, config_for(self.model))

    def gpu_hours(self) -> float | None:
        """Of one seed; see BASIS. None where there is no single training."""
        if self.model is None or self.unrunnable is not None or self.images is None:
            return None
        recipe = self.recipe()
        photographs = self.data == "imagenet"
        flops = 6 * _macs(self.model, photographs) * recipe.epochs * self.images
        return float(flops / ASSUMED_FLOPS["photographs" if photographs else "small images"] / 3600)

    def cost_basis(self) -> str:
        """How `gpu_hours` is found, or why it is not."""
        if self.unrunnable is not None:
            return f"none: {self.unrunnable}"
        if self.model is None:
            return "none: many runs of sizes that the study finds; `--dry-run` forecasts them on the machine at hand"
        return BASIS

    def document(self) -> dict[str, Any]:
        """For JSON."""
        runnable = self.model is not None and self.unrunnable is None
        return {
            **self.model_dump(mode="json", exclude={"study", "training", "images"}),
            "command": self.command,
            "recipe": self.recipe().model_dump(mode="json") if runnable else None,
            "gpu_hours": self.gpu_hours(),
            "gpu_hours_basis": self.cost_basis(),
        }


@cache
def _macs(model: str, photographs: bool) -> int:
    config = config_for(model)
    if isinstance(config, ExternalConfig | DenseNetConfig) or photographs:
        return cost_of(as_published(config)).macs
    return cost_of(config).macs


@cache
def cells() -> Mapping[str, Cell]:
    """Every published number by id."""
    ledger = Ledger.model_validate(yaml.safe_load(files("densekit.study").joinpath("ledger.yaml").read_text("utf-8")))
    found: dict[str, Cell] = {}
    for row in ledger.rows:
        for name, claimed in row.claimed.items():
            found[f"{name}/{row.model}"] = _cell(ledger, f"{name}/{row.model}", row.source, name, row, claimed)
    for point in ledger.figures:
        found[point.id] = _point(ledger, point, found)
    return found


def _cell(ledger: Ledger, id: str, source: str, column: str, row: Row | Point, claimed: float | None) -> Cell:
    of = ledger.columns[column]
    model = row.model
    return Cell(
        id=id,
        source=source,
        title=of.title,
        claimed=claimed,
        unclaimed=row.unclaimed if isinstance(row, Point) else None,
        model=model,
        data=of.data,
        recipe_name=of.recipe,
        images=of.images,
        ten_crop=of.ten_crop,
        training=f"{column.removesuffix('-10crop')}/{model}",
        deviations=(*row.deviations, *of.deviations),
        unrunnable=row.unbuilt if isinstance(row, Row) else None,
        measured=ledger.measured.get(id),
    )


def _point(ledger: Ledger, point: Point, found: Mapping[str, Cell]) -> Cell:
    source = f"fig. {point.id.partition('/')[0].removeprefix('fig')}"
    if point.same_as is not None:
        return found[point.same_as].model_copy(update={"id": point.id, "source": source})
    if point.column is not None:
        return _cell(ledger, point.id, source, point.column, point, None)
    return Cell(
        id=point.id,
        source=source,
        title=point.title or point.id,
        claimed=None,
        unclaimed=point.unclaimed,
        deviations=point.deviations,
        study=point.study,
        measured=ledger.measured.get(point.id),
    )


def cell_for(target: str) -> Cell:
    """Raises UnknownName with the closest cells."""
    known = cells()
    if target not in known:
        raise UnknownName("number of the paper", target, known, hint="`densekit reproduce --list` has them all")
    return known[target]
