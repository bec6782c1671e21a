"""Fixtures of the tests of plans."""

import pytest
from torch import Tensor

from densekit.ops import shared


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts blocks that ran as one node, so that a test of `shared` cannot pass on its fall-back."""
    calls: list[int] = []
    real = shared.run

    def run(*arguments: object) -> Tensor:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(shared, "run", run)
    return calls
