"""A model card for the Hugging Face Hub (Mitchell et al. 2019), from config.json and, if there is one, the run.

It says what was measured and on what, and calls unknown what is unknown; nothing in it is a promise.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from densekit.data.sources.registry import short_name
from densekit.folders import expanded
from densekit.formatting import counted, duration, percentage
from densekit.models.cost import cost_of
from densekit.publishing.markdown import cell, front_matter_of, template
from densekit.report.single_label import wilson
from densekit.runs import run_folder
from densekit.weights import ModelCard

# Names of the Hub's own copies; which copy a run had is another question, so they are tags and no sources.
DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "imagenet": "ILSVRC/imagenet-1k",
}
_NAMED = 60  # classes that stand in the card; more are in config.json
_NOT_COMPUTED = "not computed"
_SHARES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}
_NUMBERS = {
    "auroc": "AUROC, mean over the classes",
    "ap": "average precision, mean over the classes",
    "sensitivity": "sensitivity at the threshold",
    "specificity": "specificity at the threshold",
    "loss": "loss (cross entropy)",
    "ece": "expected calibration error, 15 bins",
}
_BINARY = {"auroc": "AUROC", "ap": "average precision", "average_precision": "average precision"}
"""Of one label, or two classes."""
_PERCENT = ("ece", "sensitivity", "specificity")
_TYPES = {"top1": "accuracy", "top5": "top_5_accuracy", "auroc": "roc_auc", "ap": "average_precision"}


@dataclass(frozen=True)
class RunRecord:
    """What a run folder adds to a model's config.json."""

    recipe: dict[str, Any]
    environment: dict[str, Any]
    result: dict[str, Any]
    """result.json; empty if there is none."""
    splits: dict[str, int]
    skipped: int

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        """Of a folder with a config.yaml. Raises BadData where that is damaged."""
        result = run_folder.result_of(folder)
        return cls(
            recipe=run_folder.recipe_of(folder).model_dump(mode="json"),
            environment=run_folder.environment_of(folder),
            result={} if result is None else asdict(result),
            splits=dict(Counter(row["split"] for row in _rows(folder / "split.csv"))),
            skipped=sum(1 for _ in _rows(folder / "skipped.csv")),
        )


def model_card(card: ModelCard, run: RunRecord | None, *, repository: str | None, license: str | None) -> str:
    """README.md with its YAML header. `repository` is OWNER/NAME, `license` the user's word for it, such as apache-2.0.

    Needs huggingface_hub, which writes the header.
    """
    metrics = card.metrics
    source = card.data.source if card.data else None
    result = run.result if run else {}
    rows, columns = _per_class(card, result)
    shown = rows if len(rows) <= _NAMED else sorted(rows, key=lambda row: row["order"])[:20]
    return template().render(
        front=_front_matter(card, repository, license),
        title=repository.rpartition("/")[2] if repository else card.model.name,
        repository=repository,
        summary=_summary(card),
        metrics=list(_metrics(card)),
        intervals=any(key in metrics or f"{key}_interval" in metrics for key in (*_SHARES, "auroc")),
        count=metrics.get("count"),
        split=metrics.get("split"),
        data_name=_data_name(source),
        per_class=shown,
        per_class_columns=columns,
        per_class_title="class" if len(shown) == len(rows) else f"the 20 classes it knows worst, of {len(rows):,}",
        calibration=_calibration(metrics, result),
        data=list(_data(card, run)),
        training=list(_training(card, run)),
        recipe=front_matter_of(_told(run.recipe)) if run else "",
        inputs=list(_inputs(card)),
        limits=list(_limits(card, run)),
        classes=_classes(card.classes),
        environment=list(_environment(card, run)),
        licence=f"{license}, as whoever pushed it says." if license else "Not stated by whoever pushed it.",
    )


def _front_matter(card: ModelCard, repository: str | None, license: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    source = card.data.source if card.data else None
    dataset = _dataset_of(source)
    task = "image-classification"
    measured = {key: value for key, value in card.metrics.items() if key in _names(card) and value is not None}
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or _data_name(source),
            dataset_name=_data_name(source),
            dataset_split=card.metrics.get("split"),
            metric_type=_TYPES.get(key, key),
            metric_name=_names(card)[key],
            metric_value=round(value, 6),
        )
        for key, value in measured.items()
    ]
    return ModelCardData(
        license=license,
        library_name="densekit",
        pipeline_tag=task,
        tags=[task, card.model.family, "pytorch", *(["multi-label"] if card.task == "multi-label" else [])],
        datasets=[dataset] if dataset else None,
        model_name=(repository.rpartition("/")[2] if repository else card.model.name) if results else None,
        eval_results=results or None,
    ).to_yaml()


def _dataset_of(source: str | None) -> str | None:
    """The Hub's name of the data, if it has one."""
    if source is None:
        return None
    form, colon, name = source.partition(":")
    if colon and form == "hf" and not expanded(name).exists():
        return name.partition(":")[0]
    return DATASETS.get(source)


def _data_name(source: str | None) -> str:
    """Without the path to it, which is nobody's business."""
    return "unknown data" if source is None else short_name(source)


def _summary(card: ModelCard) -> str:
    cost = cost_of(card.model)
    what = (
        f"{card.model.name}, {cost.parameters:,} parameters and {cost.macs / 1e6:,.1f} M multiply-accumulates an image"
    )
    if not card.classes:
        return f"{what}, without a classifier: weights to start a training from."
    how = "which of" if card.task == "multi-label" else "which one of"
    return f"{what}. It says {how} {counted(len(card.classes), 'class', 'classes')} a picture shows."


def _metrics(card: ModelCard) -> Iterator[dict[str, str]]:
    count = card.metrics.get("count")
    for key, name in _names(card).items():
        value = card.metrics.get(key)
        if value is None or (key == "top5" and len(card.classes) <= 5):
            continue
        if key in _SHARES:
            stored = _stored(card, key)
            low, high = stored or (wilson(round(value * count), count) if count else (math.nan, math.nan))
            interval = f"{low:.2%} to {high:.2%}" if count or stored else _NOT_COMPUTED
            yield {"name": name, "value": f"{value:.2%}", "interval": interval}
        else:
            form = "{:.2%}".format if key in _PERCENT else "{:.4f}".format
            stored = _stored(card, key)
            interval = " to ".join(map(form, stored)) if stored else _NOT_COMPUTED
            yield {"name": name, "value": form(value), "interval": interval}


def _names(card: ModelCard) -> dict[str, str]:
    """Metrics and what they are called."""
    binary = len(card.classes) <= (1 if card.task == "multi-label" else 2)
    return _SHARES | _NUMBERS | (_BINARY if binary else {})


def _stored(card: ModelCard, key: str) -> list[float] | None:
    """The interval that was measured with a metric; none in cards of older versions."""
    stored: list[float] | None = card.metrics.get(f"{'average_precision' if key == 'ap' else key}_interval")
    return stored


def _per_class(card: ModelCard, result: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Sequence[str]]:
    """Rows for the table, and what its columns are called; nothing where the run's result is not at hand."""
    rows = []
    several = card.task == "multi-label"
    for row in result.get("per_class", ()):
        if several:
            values = [percentage(row["auroc"]), percentage(row["ap"])]
        else:
            low, high = wilson(round(row["recall"] * row["count"]), row["count"]) if row["count"] else (0, 0)
            spread = f"{low:.1%} to {high:.1%}" if row["count"] else "-"
            values = [percentage(row["precision"]), percentage(row["recall"]), spread]
        order = row["auroc" if several else "recall"]
        rows.append(
            {"name": row["class"], "count": row["count"], "values": values, "order": 2 if order is None else order}
        )
    return rows, ("AUROC", "average precision") if several else ("precision", "recall", "95 % interval of recall")


def _calibration(metrics: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    ece = metrics.get("ece")
    if ece is None:
        return "Unknown: its calibration was not measured."
    bins = result.get("reliability") or []
    words = f"Its expected calibration error is {ece:.2%} (15 equal bins, L1; Guo et al. 2017)"
    if bins and "confidence" in bins[0] and result.get("top1") is not None:
        total = sum(b["count"] for b in bins)
        sure = sum(b["count"] * b["confidence"] for b in bins) / total
        words += f": on average it says it is {sure:.1%} sure, and is right {result['top1']:.1%} of the time"
    return f"{words}. That holds for images like those it was measured on, and for no others."


def _data(card: ModelCard, run: RunRecord | None) -> Iterator[str]:
    if card.data is None:
        imported = card.provenance.get("imported")
        yield "Unknown" + (": the file that these weights were imported from does not say." if imported else ".")
        if imported:
            yield f"Its images: {imported.get('images', 'unknown')}."
        return
    data = card.data
    yield f"{_data_name(data.source)}" + (
        f" ([on the Hub]({_url(dataset)}))" if (dataset := _dataset_of(data.source)) else ""
    )
    if run and run.splits:
        yield "Images: " + ", ".join(f"{count:,} {split}" for split, count in run.splits.items()) + "."
    elif (count := card.provenance.get("training_images")) is not None:
        yield f"Images: {count:,} to learn from."
    if data.protocol == "final":
        yield "All training images were learned from; none were held out to choose by."
    if data.limit is not None:
        yield f"Only the first {data.limit:,} training images, by content hash."
    if run and run.skipped:
        yield f"{counted(run.skipped, 'image file')} could not be read and were left out."


def _url(dataset: str) -> str:
    return f"https://huggingface.co/datasets/{dataset}"


def _training(card: ModelCard, run: RunRecord | None) -> Iterator[str]:
    told = card.provenance
    imported = told.get("imported")
    if imported:
        yield "Unknown: densekit did not train it."
        counts = (
            f"{imported.get(key, 'an unknown number')} {words}"
            for key, words in (("matched", "matched bit for bit"), ("converted", "converted"), ("made", "made"))
        )
        file, digest, names = (imported.get(key, "unknown") for key in ("file", "sha256", "names"))
        aside = len(imported.get("aside", ()))
        yield f"Imported from `{file}`, sha256 `{digest}`, named as by {names}."
        yield f"Tensors: {', '.join(counts)}; {aside} set aside."
        return
    if "recipe" not in told:
        yield "Unknown."
        return
    # What else config.json tells is whatever wrote it then: of the fields of a card only this one has no form.
    counted_in = {"epochs": "epochs", "step": "steps"}
    facts = [f"{told[key]:,} {word}" for key, word in counted_in.items() if isinstance(told.get(key), int)]
    facts += [f"seed {told['seed']}"] if "seed" in told else []
    facts += [duration(told["seconds"])] if isinstance(told.get("seconds"), int | float) else []
    yield f"By densekit {told.get('densekit', '(version unknown)')}, recipe {told['recipe']}: {', '.join(facts)}."
    yield f"It began with {'the weights of ' + told['init'] if told.get('init') else 'random weights'}."
    if run:
        recipe = run.recipe
        optimizer, schedule = recipe["optimizer"], recipe["schedule"]
        yield (
            f"{optimizer['name']}, learning rate up to {optimizer['lr']:g} ({schedule['name']}), batches of "
            f"{recipe['batch_size']}, weight decay {optimizer['weight_decay']:g}, label smoothing "
            f"{recipe['label_smoothing']:g}."
        )
        yield (
            "The weights are those of the epoch that was best on the validation images."
            if recipe["select"] == "best"
            else "The weights are the last epoch's; no image chose them."
        ) + (
            f" They are averaged over steps (EMA, decay {recipe['ema']['decay']:g})." if recipe["ema"]["decay"] else ""
        )
    else:
        yield "Augmentation, optimizer and schedule: unknown here; they are in the run folder, which was not at hand."


def _told(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What stands elsewhere in the card is left out: data and init, which may name folders of the author's machine."""
    return {key: value for key, value in recipe.items() if key not in ("data", "init")}


def _inputs(card: ModelCard) -> Iterator[str]:
    given = card.preprocessing
    kind = {1: "grey", 3: "colour (RGB)", 4: "RGBA"}.get(given.channels, f"{given.channels}-channel")
    height, width = given.size
    yield (
        f"{kind} images of any size: the shorter side is scaled to {given.resize} pixels, and {height} x {width} cut "
        "from the middle."
    )
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (given.mean, given.std))
    if any(given.mean) or given.known:
        yield f"Pixels are divided by 255, then normalised by mean {mean} and deviation {std}."
        if not given.known:
            yield "That mean and deviation are assumed: which ones it was trained with is unknown."
    else:
        yield "Mean and deviation are unknown: pixels stay 0 to 1, which may not be what it was trained with."
    if given.background:
        yield f"A {given.background} background, as in its training images; of a picture with another densekit says so."
    if given.window:
        yield f"Images of more than 8 bits are seen through the window {given.window}."


def _limits(card: ModelCard, run: RunRecord | None) -> Iterator[str]:
    if not card.metrics:
        yield "Nothing has been tested: there are no measurements of these weights."
    elif card.data is not None:
        source = _data_name(card.data.source)
        yield f"It was measured on one split of {source} alone: images of the same origin as those it learned from."
    yield (
        "Not tested: other cameras, places or times; blurred, noisy, compressed or turned images; images made to "
        "mislead it; whether it does equally well for all groups of people or things that the data do not tell apart."
    )
    if card.classes and card.task == "single-label":
        known = counted(len(card.classes), "class", "classes")
        yield f"It always names one of its {known}, also for a picture of something else."
    if not card.task_known:
        yield "Whether its classes exclude each other is unknown; a softmax over them is assumed."
    if card.task == "multi-label":
        yield "Its thresholds suit its own validation images; where findings are rarer or commoner they may not fit."
    if "seed" in card.provenance:
        yield f"One training, of seed {card.provenance['seed']}: how much another would differ was not measured."
    if card.metrics.get("split") == "val":
        yield "There was no test split."
    if run is None and card.metrics:
        yield "Written without the run folder: which images were in which split cannot be told here."


def _classes(classes: Sequence[str]) -> str:
    if not classes:
        return "None: it has no classifier."
    shown = ", ".join(cell(name) for name in classes[:_NAMED])
    more = len(classes) - _NAMED
    return shown + (f", and {more:,} more in `config.json`." if more > 0 else ".")


def _environment(card: ModelCard, run: RunRecord | None) -> Iterator[tuple[str, Any]]:
    told = (run.environment if run else {}) or card.provenance
    names = {
        "densekit": "densekit",
        "torch": "PyTorch",
        "python": "Python",
        "processor": "processor",
        "threads": "threads",
        "kernels": "compiled kernels",
        "started": "started",
    }
    for key, name in names.items():
        if told.get(key) not in (None, "", []):
            yield name, told[key]
    if run and run.environment.get("cuda"):
        yield "CUDA devices", ", ".join(run.environment["cuda"])
    if run:
        yield "plan of the dense blocks", f"{run.recipe['plan']} (changes speed and memory, never the function)"
        yield "precision", run.recipe["precision"]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.is_file():
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            yield from csv.DictReader(file)
