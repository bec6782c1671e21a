"""One server for all that needs none of its own: it takes seconds to start."""

from collections.abc import Iterator

import pytest

from tests.serve.servers import MODEL, QUICK, Served, served


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    """With the limits as they are."""
    with served(MODEL, *QUICK) as running:
        yield running
