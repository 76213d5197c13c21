"""The SQLite store keeps what every store promises, on a file and in memory."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from everstep.store.sqlite import SqliteStore
from tests.store.contract import StoreContract
from tests.store.making import Execute, MakeStore, ManualClock


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path, clock: ManualClock) -> MakeStore:
        return lambda: SqliteStore(f"sqlite:///{tmp_path}/runs.db", clock=clock)

    @pytest.fixture
    def execute(self, tmp_path: Path) -> Execute:
        async def execute(sql: str) -> list[tuple[Any, ...]]:
            db = sqlite3.connect(tmp_path / "runs.db")
            try:
                rows = db.execute(sql).fetchall()
                db.commit()
            finally:
                db.close()
            return rows

        return execute


class TestMemoryStore(StoreContract):
    shared = False

    @pytest.fixture
    def make_store(self, clock: ManualClock) -> MakeStore:
        return lambda: SqliteStore("sqlite://", clock=clock)

    @pytest.fixture
    def execute(self, store: SqliteStore) -> Execute:
        async def execute(sql: str) -> list[tuple[Any, ...]]:
            return await store._write(lambda db: db.execute(sql).fetchall())

        return execute
