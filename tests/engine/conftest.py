"""What every test of the engine leaves behind: no body in memory."""

from collections.abc import Iterator

import pytest

from everstep.engine import body


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    """Bodies of this test that are still in memory leave it; the collector never has to."""
    yield
    for left in list(body.IN_MEMORY):
        left.evict()
