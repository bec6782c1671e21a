"""hf:OWNER/NAME[@REVISION]: model folders on the Hugging Face Hub, through its own client, huggingface_hub (an extra).

A revision is a branch, a tag or a commit; both files are of one commit, whatever is pushed meanwhile. The client keeps
what it downloads, and without a network gives what it kept. Nothing but config.json and model.safetensors is fetched.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from densekit.errors import BadData, BadWeights, DensekitError, InvalidInput
from densekit.optional_packages import require_package
from densekit.version import __version__
from densekit.weights.folder import CONFIG, WEIGHTS, read_card

CARD = "README.md"
_SCHEME = "hf:"
_NAME = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_MARK = re.compile(r"\n<!-- densekit wrote this card; sha256 of the text above: (?P<digest>[0-9a-f]{64}) -->\n$")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class Address(NamedTuple):
    """A repository of models, and which state of it."""

    repository: str
    """OWNER/NAME."""
    revision: str | None
    """None: what its branch main holds."""

    @classmethod
    def of(cls, name: str) -> Self:
        """Raises InvalidInput for what is not hf:OWNER/NAME[@REVISION]."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidInput(
                f"{name} is not hf:OWNER/NAME or hf:OWNER/NAME@REVISION; name a repository as its page does"
            )
        return cls(match["repository"], match["revision"])

    def __str__(self) -> str:
        """As it is written."""
        return f"{_SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


class Pushed(NamedTuple):
    """A state of a repository that was made here."""

    address: Address
    """With the commit as its revision."""
    url: str
    kept_card: bool
    """Whether a card that somebody had edited was left as it was."""


def is_address(name: str | Path) -> bool:
    """Whether a MODEL is on the Hub, by its form."""
    return str(name).startswith(_SCHEME)


def fetched(name: str) -> Path:
    """The model folder of hf:OWNER/NAME[@REVISION], in the client's cache; its name is the commit.

    Raises InvalidInput for a malformed name or without the client, BadWeights for what cannot be had, or is no model.
    """
    address = Address.of(name)
    hub = _client(str(address))
    with _explained(address, BadWeights, f"hold both {CONFIG} and {WEIGHTS}"):
        about = {"library_name": "densekit", "library_version": __version__}
        # First the card: of somebody else's gigabytes this is enough to know that they are not ours.
        config = Path(hub.hf_hub_download(address.repository, CONFIG, revision=address.revision, **about))
        folder = config.parent
        _check_card(folder, address)
        hub.hf_hub_download(address.repository, WEIGHTS, revision=folder.name, **about)
    return folder


def _check_card(folder: Path, address: Address) -> None:
    try:
        read_card(folder)
    except BadWeights as error:
        raise BadWeights(
            f"{address} is not a densekit model: its {CONFIG} is another library's, or a newer densekit's; weights of "
            "other libraries become one by downloading their file, and densekit import FILE --out DIR"
        ) from error


def resolve_revision(name: str | Path) -> str:
    """`name` as it is; of a model of the Hub with the commit that it has now, which is then in the cache."""
    if not is_address(name):
        return str(name)
    return str(Address.of(str(name))._replace(revision=fetched(str(name)).name))


def push(folder: Path, to: Address, *, private: bool, message: str, replace_card: bool) -> Pushed:
    """Commits a folder's config.json, model.safetensors and README.md; makes the repository where there is none.

    A README.md that is not as densekit left it stays, unless `replace_card`. Raises InvalidInput without the client or
    a token, or where `private` comes too late; BadData for what the Hub refuses.
    """
    hub = _client(str(to))
    if hub.get_token() is None:
        raise InvalidInput(f"pushing to {to} needs a token that may write; {_LOG_IN}")
    api = hub.HfApi(library_name="densekit", library_version=__version__)
    with _explained(to, BadData, "accept these files", writing=True):
        api.create_repo(to.repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(to.repository).private:
            raise InvalidInput(
                f"{to} is there already, and public: --private cannot change that; name another, or make it private "
                "in its settings first"
            )
        kept = not replace_card and _edited(hub, to)
        names = (CONFIG, WEIGHTS) if kept else (CONFIG, WEIGHTS, CARD)
        files = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
        commit = api.create_commit(to.repository, files, commit_message=message, revision=to.revision)
    return Pushed(to._replace(revision=commit.oid), commit.commit_url, kept)


def marked(card: str) -> str:
    """A card with a line that tells later whether anybody has edited it."""
    digest = hashlib.sha256(card.encode()).hexdigest()
    return f"{card}\n<!-- densekit wrote this card; sha256 of the text above: {digest} -->\n"


def _edited(hub: Any, to: Address) -> bool:
    """Whether the repository has a card that is not as densekit wrote it."""
    try:
        text = Path(hub.hf_hub_download(to.repository, CARD, revision=to.revision)).read_text(encoding="utf-8")
    except hub.errors.EntryNotFoundError:
        return False
    mark = _MARK.search(text)
    return mark is None or hashlib.sha256(text[: mark.start()].encode()).hexdigest() != mark["digest"]


def require(name: str) -> None:
    """Raises InvalidInput where the Hub's client is not installed."""
    require_package(name, "huggingface_hub", extra="hub")


def _client(name: str) -> Any:
    require(name)
    import huggingface_hub
    import huggingface_hub.errors
    import huggingface_hub.utils  # its modules are attributes only once they are imported

    client: Any = huggingface_hub
    if not sys.stderr.isatty():
        client.utils.disable_progress_bars()
    return client


@contextmanager
def _explained(address: Address, kind: type[DensekitError], must: str, *, writing: bool = False) -> Iterator[None]:
    """What the client raises, as one line of ours."""
    try:
        yield
    except DensekitError:
        raise
    except Exception as error:  # its own, its HTTP client's, the system's: they share no base
        raise kind(_in_words(error, address, must, writing=writing)) from error


def _in_words(error: Exception, address: Address, must: str, *, writing: bool) -> str:
    from huggingface_hub import constants, errors, get_token

    chain = [error, *(e for e in (error.__cause__, error.__context__) if e is not None)]
    status = next((r.status_code for e in chain if (r := getattr(e, "response", None)) is not None), None)
    page = f"{constants.ENDPOINT}/{address.repository}"
    logged_in = get_token() is not None
    if any(isinstance(e, errors.GatedRepoError) for e in chain):
        then = "your token's owner has no access yet" if logged_in else f"then {_LOG_IN}"
        return f"{address} is gated: ask for access on {page}; {then}"
    if any(isinstance(e, errors.RevisionNotFoundError) for e in chain):
        return f"{address} does not exist: {page} has no such revision; name a branch, a tag or a commit after the @"
    if any(isinstance(e, errors.RepositoryNotFoundError) for e in chain):
        private = "or it is private and your token may not read it" if logged_in else f"or it is private: {_LOG_IN}"
        return f"there is no model {address.repository} on {constants.ENDPOINT}, {private}; check the name"
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return (
            f"{address} is not a densekit model: it does not {must}. Pickles (.bin, .pth) are never fetched; weights "
            "of other libraries become one by downloading their file, and densekit import FILE --out DIR"
        )
    if status == 401:
        return f"the Hub does not accept your token for {address}; make a new one on its settings page, and {_LOG_IN}"
    if status == 403:
        right = "write to" if writing else "read"
        return f"your token may not {right} {address}: the Hub answers 403; use one with that right: {_LOG_IN}"
    if any(isinstance(e, errors.OfflineModeIsEnabled) for e in chain) or constants.is_offline_mode():
        return f"{address} is not in this machine's cache, and HF_HUB_OFFLINE forbids to fetch it; unset it once"
    reason = " ".join(str(chain[-1] if len(chain) > 1 else error).split())[:200] or type(error).__name__
    if status is not None:
        return f"the Hub answered {status} for {address} ({reason}); try again later"
    done = "pushed" if writing else "fetched, nor is it in this machine's cache"
    return f"{address} could not be {done} ({type(chain[-1]).__name__}: {reason}); check the network, and {page}"
