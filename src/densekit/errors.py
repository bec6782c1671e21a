"""What can go wrong, as types. A message names what was given, the rule, and the fix; the type decides the exit status.

The table from type to exit status stands in `densekit.cli.main`.
"""

import difflib
from collections.abc import Iterable
from numbers import Integral


class DensekitError(Exception):
    """Base of everything densekit raises on purpose."""


class InvalidInput(DensekitError):
    """Wrong usage or configuration (exit status 2)."""


class UnknownName(InvalidInput):
    """A name that is in no table; the message offers the closest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        self.name = name
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        offer = f"did you mean {' or '.join(close)}?" if close else hint or f"known: {', '.join(known)}"
        super().__init__(f"unknown {kind} '{name}'; {offer}")


class BadData(DensekitError):
    """Data that are missing, empty or unusable (exit status 3)."""


class BadImage(BadData):
    """One image that cannot be decoded. `code` is a stable short name for programs, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        """Errors cross from decoding workers; without this, pickle calls the class with the message alone."""
        return BadImage, (self.code, str(self))


class WorkerLost(BadData):
    """A process that decodes images has ended, or found no shared memory (exit status 3)."""


class BadWeights(BadData):
    """Weights that are missing, damaged, or of another architecture (exit status 3)."""


class NotFinite(BadWeights):
    """Weights, or a network's outputs, that are not finite (exit status 3). `images` are those with such outputs."""

    images: tuple[str, ...] = ()


class Diverged(DensekitError):
    """Training made the loss, the weights or the network's outputs not finite (exit status 4)."""


class ProofFailed(DensekitError):
    """Refused because a proof failed: export parity, resume mismatch (exit status 5)."""


class Interrupted(DensekitError):
    """Stopped by a signal after the state was saved (exit status 128 + signal)."""

    def __init__(self, message: str, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(message)


class PeerLost(DensekitError):
    """Another process of the run has ended or cannot be reached (exit status 1)."""


def check_positive(name: str, value: int) -> None:
    """Raises InvalidInput for an argument that is not a whole number of 1 or more."""
    if not isinstance(value, Integral) or value < 1:
        raise InvalidInput(f"{name}={value!r} is not possible; give a whole number of 1 or more")
