"""The verbs as Python functions; the command line is a thin layer over them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import yaml
from pydantic import ValidationError
from rich.console import Console

from densekit.config import DataConfig, Recipe, describe, flatten, with_settings
from densekit.data import DataSet, Images, Loader
from densekit.data import load as load_data
from densekit.data.sets import ArrayImages, FileImages, SkipList
from densekit.data.split import divide
from densekit.engine import Classifier, Result, choose, fit, forecast_of, prepare, runs, threads
from densekit.engine.evaluate import evaluate as measure
from densekit.engine.progress import Display
from densekit.engine.setup import Prepared
from densekit.errors import BadData, InvalidInput, UnknownName
from densekit.models import config_for
from densekit.models.cost import cost_of
from densekit.recipes import recipe_for
from densekit.report import write_report

# Forms of DATA that are to come, and what to do until then.
_PLANNED = {
    "csv": "put the images into one folder for each class",
    "hf": "download the data set, and name its folder of images",
    "wds": "unpack the archives into one folder for each class",
}


@dataclass(frozen=True)
class Run:
    """A finished training run on disk."""

    folder: Path
    result: Result
    """Metrics of the reported split, as measured at the end of training."""

    @property
    def report(self) -> Path:
        """The page with curves, metrics and mistakes."""
        return self.folder / "report.html"

    def classifier(self) -> Classifier:
        """The trained network with its classes and preprocessing."""
        return load(self.folder)

    def evaluate(self, data: str | None = None, split: str | None = None) -> Result:
        """Measures again, on the reported split or another one."""
        return evaluate(self.folder, data, split=split)


def load(source: str | Path, device: str = "auto") -> Classifier:
    """A classifier from a run folder, a model folder or a shipped model's name. Raises BadWeights, UnknownName."""
    return Classifier.load(source, device)


def data_folder(given: str | Path | None = None) -> Path:
    """--data-dir, else $DENSEKIT_DATA, else the user's cache folder."""
    return Path(given or os.environ.get("DENSEKIT_DATA") or platformdirs.user_cache_path("densekit")).expanduser()


def compose(
    data: str,
    *,
    model: str | None = None,
    recipe: str = "quick",
    epochs: int | None = None,
    seed: int | None = None,
    init: str | None = None,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe by name, then the YAML file `config`, then the named arguments, then `settings`.

    Raises UnknownName or InvalidInput.
    """
    _refuse_planned(data)
    composed = recipe_for(recipe, data, config_for(model) if model else None)
    overrides = dict(_read_config(config)) if config else {}
    named = {"epochs": epochs, "seed": seed, "init": init}
    overrides |= {key: value for key, value in named.items() if value is not None}
    return with_settings(composed, overrides | dict(settings or {}))


def train(
    data: str,
    *,
    model: str | None = None,
    recipe: str = "quick",
    epochs: int | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    init: str | None = None,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Run:
    """Trains on DATA and reports. `out` is a new folder (by default below runs/); `settings` are dotted keys.

    Raises InvalidInput, BadData, BadWeights, Diverged, or Interrupted after ctrl-C with the state saved.
    """
    composed = compose(
        data, model=model, recipe=recipe, epochs=epochs, seed=seed, init=init, config=config, settings=settings
    )
    prepared = prepare(composed, data_folder(data_dir))
    # Before there is a folder: a network that does not suit the images fails here.
    cost = cost_of(prepared.recipe.model)
    with threads.suitable(cost.macs, composed.batch_size):
        prepared, choice = choose(prepared, cost.macs)
        folder = Path(out) if out else free_folder(Path("runs"), f"{Path(data).name}-{composed.model.name}")
        runs.create(folder, prepared.recipe, prepared.data)
        display = Display(console or Console(stderr=True))
        title = f"{prepared.recipe.model.name} on {prepared.data.name} -> {folder}"
        display.forecast(forecast_of(prepared, choice, cost), title)
        return _finish(prepared, folder, display, resume=False)


def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    data_dir: str | Path | None = None,
    console: Console | None = None,
) -> Run:
    """Goes on where `run` stopped, from its last checkpoint. A finished run is measured again and reported."""
    folder = Path(run)
    recipe = runs.recipe_of(folder)
    if epochs is not None:
        if epochs < recipe.epochs:
            raise InvalidInput(f"--epochs {epochs} is less than the {recipe.epochs} of {folder}; a run cannot shrink")
        recipe = with_settings(recipe, {"epochs": epochs})
    prepared = prepare(recipe, data_folder(data_dir), start=False)
    with threads.suitable(cost_of(prepared.recipe.model).macs, recipe.batch_size):
        return _finish(prepared, folder, Display(console or Console(stderr=True)), resume=True)


def _finish(prepared: Prepared, folder: Path, display: Display, *, resume: bool) -> Run:
    result, records = fit(prepared, folder, display, resume=resume)
    write_report(folder, prepared, result, records)
    return Run(folder, result)


def evaluate(
    model: str | Path,
    data: str | None = None,
    *,
    split: str | None = None,
    ten_crop: bool = False,
    batch_size: int = 100,
    data_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Result:
    """Metrics of MODEL on a split of DATA (none: the data it was trained on).

    `split` is train, val, test or all; by default test, or all images of a folder the model never saw.
    Raises BadData when the classes do not match.
    """
    classifier = load(model)
    card = classifier.card
    if data is None and card.data is None:
        raise InvalidInput(f"{model} does not say what it was trained on; name DATA")
    own = card.data is not None and data in (None, card.data.source)
    if data is not None:
        _refuse_planned(data)
    config = card.data if own and card.data is not None else DataConfig(source=str(data))
    config = _with_data_settings(config, settings or {})
    loaded = load_data(config, data_folder(data_dir))
    _check_classes(classifier, loaded, str(model))
    name, images = _choose_split(loaded, config, split, own=own)
    if ten_crop and not isinstance(images, FileImages):
        raise InvalidInput(f"--ten-crop needs photographs larger than the input; {loaded.name} has images of one size")
    loader = Loader(
        images,
        card.preprocessing,
        batch_size // 10 if ten_crop else batch_size,
        _skipped_of(images, loaded.skipped),
        device=classifier.device,
        workers=config.workers,
        max_pixels=config.max_pixels,
        ten_crop=ten_crop,
    )
    display = Display(console or Console(stderr=True))
    with display.evaluating(name, len(images)) as advance:
        result, _ = measure(
            classifier.model,
            loader,
            classes=classifier.classes,
            names=(str(model), loaded.name, name),
            advance=advance,
        )
    return result


def write_samples(run: Path, count: int) -> list[Path]:
    """The first `count` images of a run's reported split as RUN/samples/NAME-true-CLASS.png; in-memory data only."""
    from torchvision.transforms.v2.functional import to_pil_image

    recipe = runs.recipe_of(run)
    data = divide(load_data(recipe.data, data_folder()), recipe.data)
    images = data.splits["test"]
    assert isinstance(images, ArrayImages)
    folder = run / "samples"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, pixels, label in zip(images.names()[:count], images.pixels, images.labels.tolist(), strict=False):
        path = folder / f"{name}-true-{data.classes[label]}.png"
        to_pil_image(pixels).save(path)
        paths.append(path)
    return paths


def _skipped_of(images: Images, skipped: SkipList) -> SkipList:
    """Only the bad files of this split's folder: those of others say nothing about this result."""
    own = SkipList(skipped.budget)
    if isinstance(images, FileImages):
        own.files = {path: error for path, error in skipped.files.items() if path.is_relative_to(images.root)}
    return own


def _refuse_planned(data: str) -> None:
    form, colon, _ = data.partition(":")
    if colon and form in _PLANNED and not Path(data).exists():
        raise InvalidInput(f"DATA {data} cannot be read: densekit does not know {form}: yet; {_PLANNED[form]}")


def _choose_split(data: DataSet, config: DataConfig, split: str | None, *, own: bool) -> tuple[str, Images]:
    if split is None:
        split = "test" if own or "test" in data.splits else "val" if "val" in data.splits else "all"
    if split == "all":
        if set(data.splits) != {"train"}:
            raise InvalidInput(f"{data.name} brings its own splits, {', '.join(data.splits)}; choose one with --split")
        return split, data.splits["train"]
    divided = divide(data, config)
    if split not in divided.splits:
        raise UnknownName("split", split, [*divided.splits, "all"])
    return split, divided.splits[split]


def _check_classes(classifier: Classifier, data: DataSet, model: str) -> None:
    if classifier.classes != data.classes:
        odd = sorted(set(classifier.classes) ^ set(data.classes))[:5]
        raise BadData(
            f"the classes of {data.name} are not those of {model} ({', '.join(odd) or 'in another order'}); "
            "name the folders after the model's classes, or train on these data"
        )


def _with_data_settings(config: DataConfig, settings: Mapping[str, Any]) -> DataConfig:
    known = {f"data.{key}" for key in DataConfig.model_fields}
    for key in settings:
        if key not in known:
            raise UnknownName("setting of evaluation", key, known)
    values = {
        key.removeprefix("data."): yaml.safe_load(value) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    try:
        return DataConfig.model_validate(config.model_dump() | values)
    except ValidationError as error:
        raise InvalidInput(describe(error)) from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidInput(f"cannot read --config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InvalidInput(f"--config {path} holds no settings; it needs keys such as optimizer: {{lr: 0.1}}")
    return flatten(tree)


def free_folder(parent: Path, name: str) -> Path:
    """`parent/name`, or with a number where that exists."""
    name = name.replace(":", "-")
    taken = 1
    while (parent / (name if taken == 1 else f"{name}-{taken}")).exists():
        taken += 1
    return parent / (name if taken == 1 else f"{name}-{taken}")


__all__ = ["Run", "compose", "data_folder", "evaluate", "load", "resume", "train"]
