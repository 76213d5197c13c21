"""Fixtures of the crash tests: children that are forked, and the seeds they follow."""

from collections.abc import Iterator

import pytest

from tests.torture.nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A process that forks children, one for each worker of pytest."""
    with Nursery() as nursery:
        yield nursery
