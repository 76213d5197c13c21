"""Fixtures of the tests that drive the real program from outside."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.project import Project, project_in


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project on SQLite; whatever it started is ended, and shown when the test failed."""
    with project_in(tmp_path) as project:
        yield project
