"""Fixtures of every test: the loop async tests run on, and a PostgreSQL schema of one's own."""

import asyncio
import os
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

VARIABLE = "EVERSTEP_TEST_POSTGRES"


@pytest.fixture
def anyio_backend() -> str:
    """Async tests (marked anyio) run on asyncio; everstep has no other loop."""
    return "asyncio"


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of an empty schema of one's own (`?schema=t_...`), dropped after the test with all in it."""
    server = os.environ.get(VARIABLE)
    if not server:
        pytest.fail(
            f"This test needs PostgreSQL, and {VARIABLE} names none. Run all tests with `make test`,\n"
            f"or a few with a server of their own: python -m scripts.postgres .venv/bin/pytest <file>",
            pytrace=False,
        )
    schema = f"t_{uuid.uuid4().hex[:12]}"
    execute(server, f"CREATE SCHEMA {schema}")
    yield with_schema(server, schema)
    # A connection the test left inside a transaction would hold this up for ever: say so instead.
    execute(server, f"SET lock_timeout = '15s'; DROP SCHEMA {schema} CASCADE")


def with_schema(server: str, schema: str) -> str:
    parts = urlsplit(server)
    query = "&".join(filter(None, [parts.query, f"schema={schema}"]))
    return urlunsplit(parts._replace(query=query))


def execute(server: str, statement: str) -> None:
    async def once() -> None:
        connection = await asyncpg.connect(server)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(once())


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a case without the address of an object in it: the workers of xdist must agree on names."""
    return type(val).__name__ if " at 0x" in repr(val) or " of type object" in repr(val) else None
