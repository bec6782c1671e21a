"""`densekit analyse` as a function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from densekit import atomic, strict_json
from densekit.analysis.connectivity import blocks_of
from densekit.analysis.image_sample import Sample, draw
from densekit.analysis.measure import affordable, run
from densekit.analysis.measurements import PARTS, Analysis, Network, Request, as_dict
from densekit.analysis.report_page import write_analysis
from densekit.attribution.grad_cam import require
from densekit.config import DenseNetConfig, with_data_settings
from densekit.data import Images
from densekit.data import load as load_data
from densekit.data.split import divide
from densekit.default_dtype import float32_default
from densekit.errors import BadData, InvalidInput, UnknownName
from densekit.evaluation.evaluate import config_of, expected_of, refuse_turned, with_classes_of
from densekit.evaluation.held_out import is_own, to_measure
from densekit.folders import data_folder
from densekit.inference.load import load
from densekit.models import ImageClassifier
from densekit.runs.run_folder import claim_folder
from densekit.terminal import Display, display_of
from densekit.weights import resolve_revision

_IMAGES = {"cifar": 1_000, "imagenet": 64}
"""Looked at by default, by stem: what is worth it for small images would take an hour for photographs."""


@dataclass(frozen=True)
class Analysed:
    """What was found, and where it stands."""

    folder: Path
    found: Analysis

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"


@float32_default()
def analyse(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    twins: Sequence[str | Path] = (),
    beside: str | Path | None = None,
    only: Sequence[str] = (),
    images: int | None = None,
    split: str | None = None,
    data_dir: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Analysed:
    """Analyse the connections of a trained DenseNet and write a report.

    Args:
        model: MODEL of the command line: a run, a model folder, a shipped model's name, or hf:OWNER/NAME.
        data: images to analyse it with. None: the data it was trained on; if the model does not name them, only its
            weights are analysed.
        out: a new folder. None: below runs/.
        twins: models of the same network trained with other seeds, for the spread between seeds.
        beside: a trained residual network, whose gradients are compared.
        only: names of the parts to measure, from `measurements.PARTS`; `["weights"]` needs no images. Empty: all.
        images: how many images are used. None: depends on the part.
        split: of `data`. None: test.
        data_dir: where data sets are kept.
        settings: dotted keys of data settings, such as `data.image_size`.
        console: what to write to. None: standard error.

    Returns:
        The measurements and the folder with report.html.

    Raises:
        InvalidInput: a model that is no DenseNet, or arguments that do not fit together.
        BadData: data that are missing or unusable.
        BadWeights: a model that is missing or damaged.
    """
    for part in only:
        if part not in PARTS:
            raise UnknownName("part of an analysis", part, PARTS)
    parts = tuple(part for part in PARTS if part in only or not only)
    given = _empty(out) if out is not None else None
    name = f"analysis-{Path(model).name}"
    model = resolve_revision(model)
    network = _network(model)
    blocks = blocks_of(network.model, str(model))
    config = network.card.model
    assert isinstance(config, DenseNetConfig)
    data = None if data is None else str(data)
    source = data or (network.card.data.source if network.card.data else None)
    if source is None and only and set(parts) != {"weights"}:
        raise InvalidInput(f"{model} does not say what it was trained on; name DATA, or choose --only weights")
    train = test = named = None
    display = display_of(console)
    if source is not None and set(parts) != {"weights"}:
        if "maps" in parts:
            require()
        count = images or _IMAGES[config.stem]
        train, test, named = _samples(network, data, split, count, data_dir, settings or {}, display)
    if test is not None and "ablation" in parts:
        tried = min(images or affordable(config, blocks), len(test))
        display.log(f"{len(test):,} images; {tried:,} for each of {sum(len(list(b.edges())) for b in blocks):,} cuts")
    request = Request(
        network,
        tuple(_network(twin) for twin in twins),
        _network(beside) if beside is not None else None,
        parts,
        test,
        train,
        images,
    )
    found = run(request, named, display.counting)
    folder = given or claim_folder(Path("runs"), name)
    try:
        with atomic.fresh_folder(folder) as fresh:
            atomic.write(fresh / "analysis.json", strict_json.dumps(as_dict(found)) + "\n")
            write_analysis(fresh, found, network.card, test)
    except OSError as error:
        raise BadData(f"cannot write to {folder}: {error.strerror}; name another folder with --out") from error
    return Analysed(folder, found)


def _empty(out: str | Path) -> Path:
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"--out {folder} is there already and not empty; name a new folder")
    return folder


def _network(source: str | Path) -> Network:
    classifier = load(source)
    if not isinstance(classifier.model, ImageClassifier):
        raise InvalidInput(f"{source} is an exported file, with no layers to look into; name the run that it came from")
    return Network(str(source), classifier.model, classifier.card)


def _samples(
    network: Network,
    data: str | None,
    split: str | None,
    count: int,
    data_dir: str | Path | None,
    settings: Mapping[str, Any],
    display: Display,
) -> tuple[Sample, Sample, tuple[str, str]]:
    """Images to fit probes to, images to measure on, and the names of the data and their split."""
    card = network.card
    config = card.data if is_own(card, data) and card.data is not None else config_of(str(data), card.data)
    config = with_data_settings(config, settings)
    refuse_turned(card, config)
    place = data_folder(data_dir)
    loaded = load_data(config, place, expected=expected_of(card, config.source))
    device = next(network.model.parameters()).device
    loaded, notes = with_classes_of(card, loaded, network.name)
    chosen = to_measure(network.name, card, loaded, config, split, data_dir=place, settings=settings)
    for note in (*notes, *chosen.notes):
        display.log(note)
    name, images = chosen.split, chosen.images

    def some(of: Images) -> Sample:
        return draw(of, card.preprocessing, count, device, config.max_pixels)

    test = some(images)
    divided = divide(loaded, chosen.config).splits if name != "all" and "train" in loaded.splits else {}
    if name == "train" or "train" not in divided:
        train, test = test.halves()
    else:
        train = some(divided["train"])
    return train, test, (loaded.name, name)
