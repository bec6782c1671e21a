"""One server for all that needs none of its own: it takes seconds to start."""

from collections.abc import Iterator

import pytest

import densekit
from densekit.inference.classifier import Classifier
from tests.serve.servers import MODEL, QUICK, Served, served


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """With the limits as they are."""
    with served(MODEL, *QUICK) as running:
        yield running


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """The model that the page is tried with."""
    return densekit.load(MODEL)
