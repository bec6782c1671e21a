"""What of a model's card is for everybody: nothing that tells of this machine's folders."""

from pathlib import Path

from densekit.config import DataConfig
from densekit.data.sources.registry import NAMED, place_of
from densekit.folders import expanded
from densekit.weights import ModelCard, hub


def without_paths(card: ModelCard) -> tuple[ModelCard, list[str]]:
    """A card that tells nothing of this machine's folders, and what it no longer tells."""
    redacted = []
    data, provenance = card.data, dict(card.provenance)
    if data is not None and (shown := _without_folders(data)) != data:
        data = shown
        redacted.append("data.source" if data.image_root is None else "data")
    if provenance.pop("command", None) is not None:  # any of its options may name a folder
        redacted.append("provenance.command")
    init = provenance.get("init")
    if isinstance(init, str) and ("/" in init or "\\" in init) and not hub.is_address(init):
        provenance["init"] = Path(init).name
        redacted.append("provenance.init")
    return card.model_copy(update={"data": data, "provenance": provenance}), redacted


def _without_folders(data: DataConfig) -> DataConfig:
    form, colon, rest = data.source.partition(":")
    if colon and form in ("csv", "wds"):
        return data.model_copy(update={"source": f"{form}:{Path(rest).name}", "image_root": None})
    if colon and form == "hf":
        local = expanded(rest).exists()
        # With ./ it names no data set of the Hub.
        return data.model_copy(update={"source": f"hf:./{Path(rest).name}"}) if local else data
    if data.source in NAMED or data.source == "imagenet" or form == "synthetic":
        return data
    name = Path(data.source).name
    is_folder = place_of(name) == Path(name)  # and not a named data set, nor of another form
    return data.model_copy(update={"source": name if is_folder else f"./{name}"})
