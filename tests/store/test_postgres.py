"""The PostgreSQL store keeps what every store promises, and finds out what became of a lost commit."""

from typing import Any

import asyncpg
import pytest

from everstep.store.postgres import PostgresStore
from tests.store.contract import StoreContract
from tests.store.making import Execute, MakeStore, ManualClock

pytestmark = pytest.mark.anyio


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def make_store(self, postgres_url: str, clock: ManualClock) -> MakeStore:
        return lambda: PostgresStore(postgres_url, clock=clock)

    @pytest.fixture
    def execute(self, postgres_url: str) -> Execute:
        return lambda sql: raw(postgres_url, sql)


async def raw(url: str, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
    """SQL in the schema that a URL of ours names."""
    server, _, schema = url.partition("?schema=")
    connection = await asyncpg.connect(server, server_settings={"search_path": schema})
    try:
        return [tuple(row) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()
