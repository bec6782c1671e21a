"""The files of torchvision's trained weights: their names, addresses, and where torch.hub keeps them."""

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

from densekit.errors import BadWeights, UnknownName

_PATIENCE = 5.0  # seconds for a server to answer


@dataclass(frozen=True)
class WeightsFile:
    """One network's default weights."""

    network: str
    url: str
    path: Path
    """Where torch.hub puts a download, and takes it from without asking the network."""

    @property
    def cached(self) -> bool:
        """Whether it is there already."""
        return self.path.is_file()

    def reachable(self) -> bool:
        """Whether it is there, or its server answers within some seconds; nothing is downloaded."""
        if self.cached:
            return True
        request = urllib.request.Request(self.url, method="HEAD", headers={"User-Agent": "torch.hub"})
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError, http.client.HTTPException):  # no network, a proxy that answers no HTTP
            return False

    def fault(self) -> str:
        """What is wrong with the file that is there, by the hash in its name; empty if nothing is."""
        wanted = torch.hub.HASH_REGEX.search(self.path.name)
        if wanted is None:
            return ""
        with self.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        wrong = not found.startswith(wanted[1])
        return f"its SHA-256 begins with {found[: len(wanted[1])]}, not with {wanted[1]}" if wrong else ""

    def by_hand(self) -> str:
        """How to get it without network, for people."""
        return f"download {self.url} and put it at {self.path}"


def torchvision_names() -> list[str]:
    """Every classification network of torchvision."""
    import torchvision.models as peers

    return [str(name) for name in peers.list_models(module=peers)]


def weights_file(network: str) -> WeightsFile:
    """Of a network by torchvision's name. Raises UnknownName."""
    import torchvision.models as peers

    if network not in (names := torchvision_names()):
        raise UnknownName("torchvision model", network, names)
    url = str(peers.get_model_weights(network).DEFAULT.url)
    name = os.path.basename(urlparse(url).path)
    return WeightsFile(network, url, Path(torch.hub.get_dir()) / "checkpoints" / name)


def downloaded(network: str) -> bool:
    """Downloads the file of a network that is not cached; whether that succeeded. Raises UnknownName."""
    try:
        load_torchvision(network)
    except BadWeights:  # the connection broke, a proxy gave something else, or the disk is full
        return False
    return True


def load_torchvision(network: str) -> Mapping[str, Tensor]:
    """The state dict of a network with its default weights, downloaded by torchvision itself if it is not cached.

    A download is compared with the hash in its name by torchvision, a cached file here: torch.hub takes any.

    Raises:
        UnknownName: torchvision has no such network.
        BadWeights: the file cannot be downloaded, or the cached one is damaged, or another.
    """
    import torchvision.models as peers

    file = weights_file(network)
    was_cached = file.cached
    if was_cached and (fault := file.fault()):
        raise _not_theirs(file, fault)
    try:
        # Not the bare file: older ones have names that only the network's own builder translates.
        with _to_standard_error():
            state = peers.get_model(network, weights="DEFAULT").state_dict()
    except Exception as error:  # of a damaged file torch raises what its unpickler raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if was_cached:
            raise _not_theirs(file, reason) from error
        raise BadWeights(
            f"torchvision's weights of {network} could not be downloaded ({reason}); check the network, or on another "
            f"machine {file.by_hand()}"
        ) from error
    # inception_v3's second head, which ours is built without.
    return {key: tensor for key, tensor in state.items() if not key.startswith("AuxLogits.")}


def _not_theirs(file: WeightsFile, reason: str) -> BadWeights:
    return BadWeights(
        f"{file.path} does not hold torchvision's weights of {file.network} ({reason}); remove it, then "
        f"{file.by_hand()}"
    )


@contextlib.contextmanager
def _to_standard_error() -> Iterator[None]:
    """torch.hub prints "Downloading" to standard output, which is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
