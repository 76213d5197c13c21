"""Fixtures of the crash tests: children that are forked, and projects on each store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.project import Project, Server, project_in
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


SEND = """
    config = {"name": "Send", "triggers": [{"type": "http", "method": "POST", "path": "/send"}]}


    async def handler(request, ctx):
        for message in request.body["messages"]:
            group = {"messageGroupId": message["group"]} if "group" in message else {}
            await ctx.enqueue({"topic": request.body["topic"], "data": message, **group})
        return {"status": 202}
"""


def send(server: Server, topic: str, *messages: dict[str, Any]) -> None:
    answer = server.http.post("/send", json={"topic": topic, "messages": list(messages)})
    assert answer.status_code == 202, answer.text
