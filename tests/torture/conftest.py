"""Fixtures of the crash tests: children that are forked, and projects on each store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.project import Project, project_in
from tests.torture.nursery import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A process that forks children, one for each worker of pytest."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(params=["sqlite", "postgres"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    """A project whose Steps several processes can work on, on each store in turn."""
    store = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    with project_in(tmp_path, store=store) as project:
        yield project
