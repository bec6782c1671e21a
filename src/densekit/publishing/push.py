"""`densekit push` as a function."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from densekit import atomic, strict_json
from densekit.errors import BadData, InvalidInput
from densekit.folders import expanded
from densekit.inference.exported_network import is_exported
from densekit.publishing.model_card import RunRecord, model_card
from densekit.weights import ModelCard, hub, model_folder, open_model
from densekit.weights.folder import CONFIG, WEIGHTS
from densekit.weights.redaction import without_paths


@dataclass(frozen=True)
class PushedModel:
    """A model on the Hub, or what would have been pushed."""

    files: dict[str, int]
    """Bytes, by name."""
    revision: str | None
    """The commit; none: nothing was sent."""
    url: str | None
    folder: Path | None
    """Of a dry run, where the files are."""
    notes: tuple[str, ...]
    """What a person should know."""


def push(
    model: str | Path,
    to: str,
    *,
    private: bool = False,
    license: str | None = None,
    dry_run: str | Path | None = None,
    replace_card: bool = False,
) -> PushedModel:
    """Push a model to the Hugging Face Hub: config.json, model.safetensors and a README.md written from its run.

    Paths of this machine are removed from what is sent. A model card that was edited on the Hub is kept.

    Args:
        model: MODEL of the command line: a run, a model folder, or a shipped model's name.
        to: hf:OWNER/NAME.
        private: make a new repository private.
        license: the Hub's name of a licence, such as apache-2.0. None: the card has none.
        dry_run: a new folder to write the files to; nothing is sent.
        replace_card: replace a card that was edited on the Hub.

    Returns:
        The address and the commit, or the folder of a dry run.

    Raises:
        InvalidInput: wrong arguments, a missing token or package.
        BadWeights: a model that is missing or damaged.
        BadData: what the Hub refuses.
    """
    address = hub.Address.of(to)
    if is_exported(model):
        raise InvalidInput(f"{model} is an exported file; name the run or model folder that it came from")
    hub.require(to)
    folder = model_folder(model)
    _, card = open_model(folder, "concat")  # whole, and of the sha256 that its card says
    run = expanded(model)
    story = RunRecord.read(run) if (run / "config.yaml").is_file() else None
    public, redacted = without_paths(card)
    text = hub.marked(model_card(public, story, repository=address.repository, license=license))
    notes = []
    if redacted:
        notes.append(f"paths of this machine are left out: {', '.join(redacted)}")
    if license is None:
        notes.append("the card states no licence, so nobody may know what is allowed; state one with --license")
    if not card.metrics:
        notes.append("the card calls accuracy unknown, as no measurement stands beside these weights")
    if dry_run is not None:
        out = expanded(dry_run)
        if out.is_file() or (out.is_dir() and any(out.iterdir())):
            raise InvalidInput(f"--dry-run {out} exists and is not empty; name a new folder")
        try:
            with atomic.fresh_folder(out) as fresh:
                _write(fresh, folder, public, text)
        except OSError as error:
            raise BadData(f"cannot write {out}: {error.strerror}; name another folder with --dry-run") from error
        return PushedModel(_sizes(out), None, None, out, tuple(notes))
    with TemporaryDirectory(prefix="densekit-push-") as scratch:
        place = Path(scratch)
        _write(place, folder, public, text)
        message = f"{card.model.name}, by densekit push"
        done = hub.push(place, address, private=private, message=message, replace_card=replace_card)
        if done.kept_card:
            notes.append("README.md was edited on the Hub and stays as it is; write it anew with --replace-card")
        return PushedModel(_sizes(place), done.address.revision, done.url, None, tuple(notes))


def _write(place: Path, model: Path, card: ModelCard, text: str) -> None:
    atomic.write(place / CONFIG, strict_json.dumps(card.model_dump(mode="json"), indent=2) + "\n")
    atomic.write(place / WEIGHTS, (model / WEIGHTS).read_bytes())
    atomic.write(place / hub.CARD, text)


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in (CONFIG, WEIGHTS, hub.CARD)}
