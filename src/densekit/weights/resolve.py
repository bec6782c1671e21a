"""MODEL of the command line -> a model folder."""

from contextlib import suppress
from pathlib import Path

from densekit import atomic
from densekit.errors import BadWeights, InvalidInput, UnknownName
from densekit.folders import expanded
from densekit.models import ImageClassifier
from densekit.parsing import JSON_BYTES, parse_json, read_text
from densekit.weights.folder import CONFIG, WEIGHTS, ModelCard, load_model
from densekit.weights.hub import fetched, is_address, resolve_revision

SHIPPED = Path(__file__).parent / "shipped"


def shipped_names() -> list[str]:
    """Models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def model_folder(name: str | Path) -> Path:
    """A run folder (its reported checkpoint), a model folder, a shipped model's name, or hf:OWNER/NAME.

    Raises BadWeights where there is no model, UnknownName where the name says nothing, InvalidInput where it names
    something that cannot be read.
    """
    if not str(name):
        raise InvalidInput("MODEL is empty; name a run folder, a model folder, a shipped model, or hf:OWNER/NAME")
    path = expanded(name)
    if (path / CONFIG).is_file():
        return path
    if (path / "checkpoints").is_dir():
        return run_checkpoint(path)
    if str(name) in shipped_names():
        return SHIPPED / str(name)
    if path.is_dir():
        raise BadWeights(f"no model in {path}: it holds neither {CONFIG} nor checkpoints/; name a run or model folder")
    library, colon, _ = str(name).partition(":")
    if is_address(name):
        return fetched(str(name))
    if colon and library in ("torchvision", "timm"):
        raise InvalidInput(
            f"{name} is a network, not a trained model; train it with --model {name}, or start from its weights with "
            f"--init {name}"
        )
    raise UnknownName(
        "model",
        str(name),
        shipped_names(),
        hint="name a run folder, a model folder, hf:OWNER/NAME, or a shipped model: " + (", ".join(shipped_names())),
    )


def located_model(name: str) -> str:
    """MODEL with an absolute path, if it is a folder of this machine; any other name as it is."""
    path = expanded(name)
    is_folder = (path / CONFIG).is_file() or (path / "checkpoints").is_dir()
    return str(path.absolute()) if is_folder else name


def open_model(name: str | Path, plan: str = "auto") -> tuple[ImageClassifier, ModelCard]:
    """The network of MODEL in evaluation mode, and its card, which of one of the Hub says which commit it is.

    Raises BadWeights, UnknownName or InvalidInput.
    """
    name = resolve_revision(name)
    model, card = load_model(model_folder(name), plan)
    if is_address(name):
        card = card.model_copy(update={"provenance": {**card.provenance, "hub": name}})
    return model, card


def run_checkpoint(run: Path) -> Path:
    """The checkpoint a run reports: the one its result was measured on, else the last.

    Raises BadWeights where there is none, or the run diverged, so that its last checkpoint is not a result.
    """
    if reason := _divergence(run):
        raise BadWeights(
            f"{run} diverged and has no result: {reason}; to take the weights from before: {run}/checkpoints/last"
        )
    result = run / "checkpoints" / "result"
    name = result.read_text().strip() if result.is_file() else "last"
    if name not in ("last", "best"):
        raise BadWeights(f"{result} holds neither last nor best; restore it from a copy, or write one of them into it")
    named = atomic.current(run / "checkpoints" / name)
    if not (named / CONFIG).is_file():
        raise BadWeights(f"{run} has no checkpoint yet; train it first")
    return named


def _divergence(run: Path) -> str:
    """Why training diverged, if nothing came after that."""
    events = run / "events.jsonl"
    with suppress(OSError, ValueError, IndexError, KeyError, TypeError):  # no events, or a full disk cut the last short
        last = parse_json(read_text(events, JSON_BYTES).splitlines()[-1])
        return str(last["reason"]) if last["event"] == "diverged" else ""
    return ""
