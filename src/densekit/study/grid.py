"""What a study is to vary, as people write it: a YAML file or one of the built-in grids."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from densekit.config import Frozen, Recipe, describe, flatten, with_settings
from densekit.errors import InvalidInput, UnknownName
from densekit.models.cost import parameters_of
from densekit.models.names import config_for
from densekit.parsing import Malformed, read_yaml
from densekit.recipes import recipe_for
from densekit.study.definition import Arm, Study
from densekit.study.size_matching import of_size
from densekit.training.setup import absolute_paths

ArmName = Annotated[str, Field(pattern=r"^[\w+-][\w.+-]*$")]
"""Also a folder's name."""
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    Field(min_length=1),
    # One number is how many, as everybody writes it.
    BeforeValidator(lambda seeds: tuple(range(seeds)) if isinstance(seeds, int) else seeds),
]
Settings = Annotated[dict[str, Any], BeforeValidator(lambda tree: flatten(tree) if isinstance(tree, dict) else tree)]
"""Of a recipe, by dotted or nested keys."""


class ArmSpec(Frozen):
    """One of the things that are compared: a network, and what else is its own."""

    model: str
    same_parameters_as: str | None = None
    """A network's name. Depth and growth rate of `model`, a CIFAR DenseNet, become those that come nearest to it."""
    settings: Settings = Field(default_factory=dict)
    """Of the recipe, in this arm alone."""
    epochs: PositiveInt | None = None
    series: str | None = None
    """Arms of one series are joined by a line in the figures; none: each stands alone."""
    at: PositiveFloat | None = None
    """Where the arm stands on the grid's `axis`."""


class Grid(Frozen):
    """Arms that differ in what is studied and share trainer, data, budget and seeds."""

    name: ArmName
    question: str = ""
    """What the study is to answer; the title of its page."""
    data: str = "fashion-mnist"
    recipe: str = "quick"
    epochs: PositiveInt | None = None
    """None: the recipe's own."""
    seeds: Seeds = (0, 1, 2)
    settings: Settings = Field(default_factory=dict)
    """Of the recipe, in all arms."""
    arms: Annotated[dict[ArmName, ArmSpec], Field(min_length=1)]
    compare: str | tuple[tuple[str, str], ...] = ()
    """Pairs of arms that are tested against each other, or one arm that all others are tested against."""
    axis: str | None = None
    """What `at` of the arms is; a figure shows the error against it."""
    costs: bool = False
    """Whether a figure shows the error against parameters and MACs."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice")
        named = [self.compare] if isinstance(self.compare, str) else [name for pair in self.compare for name in pair]
        for name in named:
            if name not in self.arms:
                raise ValueError(f"compare names {name}, which is no arm; there are {', '.join(self.arms)}")
        if self.axis is not None and any(arm.at is None for arm in self.arms.values()):
            raise ValueError("axis needs an `at` in every arm")
        for settings in (self.settings, *(arm.settings for arm in self.arms.values())):
            if taken := {"seed", "epochs"} & settings.keys():
                raise ValueError(f"{taken.pop()} is no setting here; a study has `seeds`, and `epochs` of its own")
        return self


class Options(Frozen):
    """What the command line says about any grid."""

    data: Annotated[str | None, BeforeValidator(lambda data: str(data) if isinstance(data, Path) else data)] = None
    recipe: str | None = None
    epochs: PositiveInt | None = None
    seeds: PositiveInt | None = None
    limit: PositiveInt | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    def given(self) -> list[str]:
        """Which of them are there."""
        return [name for name in type(self).model_fields if getattr(self, name)]


def read_grid(path: Path) -> Grid:
    """A grid from a YAML file. Raises InvalidInput with every fault in one line."""
    try:
        tree = read_yaml(path)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except Malformed as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    if not isinstance(tree, dict) or "arms" not in tree:
        raise InvalidInput(f"{path} is no grid; it needs `arms`, such as arms: {{plain: {{model: densenet_40_12}}}}")
    return _validated({"name": path.stem} | tree, str(path))


def _validated(tree: dict[str, Any], what: str) -> Grid:
    try:
        return Grid.model_validate(tree)
    except ValidationError as error:
        raise InvalidInput(f"{what}: {describe(error)}") from error


def with_options(grid: Grid, options: Options) -> Grid:
    """`grid` with what the command line says in place of its own. Raises InvalidInput for what the arms vary."""
    settings = ({"data.limit": options.limit} if options.limit else {}) | options.settings
    for key in settings:
        if varied := [name for name, arm in grid.arms.items() if key in arm.settings]:
            raise InvalidInput(
                f"{key} is what {grid.name} varies (in {', '.join(varied)}); change it in the grid, or leave it out"
            )
    changes: dict[str, Any] = {"settings": grid.settings | settings}
    changes |= {name: value for name in ("data", "recipe", "epochs") if (value := getattr(options, name)) is not None}
    if options.seeds is not None:
        changes["seeds"] = tuple(range(options.seeds))
    return _validated({**grid.model_dump(), **changes}, f"study {grid.name}")


def lay_out(grid: Grid) -> Study:
    """The grid with a whole recipe for each arm. Raises UnknownName or InvalidInput."""
    arms = {name: _arm(grid, name, spec) for name, spec in grid.arms.items()}
    pairs = grid.compare
    if isinstance(pairs, str):
        pairs = tuple((name, pairs) for name in grid.arms if name != grid.compare)
    return Study(
        name=grid.name,
        question=grid.question or f"{grid.name}: which arm errs least?",
        seeds=grid.seeds,
        arms=arms,
        comparisons=pairs,
        axis=grid.axis,
        costs=grid.costs,
    )


def _arm(grid: Grid, name: str, spec: ArmSpec) -> Arm:
    model = spec.model
    if spec.same_parameters_as is not None:
        model = of_size(model, parameters_of(config_for(spec.same_parameters_as)))
    try:
        recipe: Recipe = recipe_for(grid.recipe, grid.data, config_for(model))
        epochs = spec.epochs or grid.epochs
        settings = grid.settings | spec.settings | ({"epochs": epochs} if epochs else {})
        recipe = absolute_paths(with_settings(recipe, settings | {"seed": 0}))
    except UnknownName:
        raise
    except InvalidInput as error:
        raise InvalidInput(f"arm {name}: {error}") from error
    return Arm(recipe=recipe, series=spec.series or name, at=spec.at)
