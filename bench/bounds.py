"""Raw bounds: the same rows, written by a bare loop that does nothing else.

SQLite: one connection, WAL, ``synchronous=FULL``, ``executemany`` in groups of
the size everstep's groups had.  PostgreSQL: one connection, ``unnest`` inserts
with ``synchronous_commit=on``.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from operator import attrgetter
from typing import Any, Protocol

from bench.place import file_of
from everstep.core.batch import Run
from everstep.core.journal import Entry
from everstep.store.base import Store

Row = tuple[Any, ...]
RUN = ("id", "rid", "handler", "mode", "status", "input", "created_at", "topic", "trace", "worker", "epoch")
ENTRY = ("run", "generation", "lane", "pos", "kind", "name", "fp", "seq", "at", "state", "value")
RUNNING, DONE = 3, 7
_run = attrgetter(*RUN)


@dataclass(slots=True)
class Group:
    """What one bare transaction writes."""

    born: list[Row] = field(default_factory=list)
    entries: list[Row] = field(default_factory=list)
    ended: list[Row] = field(default_factory=list)
    cells: list[Row] = field(default_factory=list)

    def add(self, kind: str, row: Row) -> None:
        """One row more."""
        getattr(self, kind).append(row)


class Bare(Protocol):
    """A bare connection to a store of one kind."""

    async def write(self, group: Group) -> None:
        """One transaction."""

    async def read_entries(self) -> list[bytes]:
        """The values of all entries, in order."""


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[Bare]:
    """A bare connection to an empty store."""
    if url.startswith("postgres"):
        import asyncpg

        server = await asyncpg.connect(url)
        await server.execute(_POSTGRES)
        for sql, columns in ((_BORN, len(RUN)), (_ENTRIES, len(ENTRY)), (_ENDED, 2), (_CELLS, 4)):
            await server.execute(sql, *([] for _ in range(columns)))  # planned before it is timed
        try:
            yield BarePostgres(server)
        finally:
            await server.close()
    else:
        db = sqlite3.connect(file_of(url) or ":memory:", isolation_level=None)
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "cache_size=-65536",
            "wal_autocheckpoint=4000",
        ):
            db.execute(f"PRAGMA {pragma}")
        db.executescript(files("everstep.store.schema").joinpath("sqlite.sql").read_text("utf-8"))
        try:
            yield BareSqlite(db)
        finally:
            db.close()


def _insert(table: str, columns: Sequence[str], *, replace: bool = False) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    verb, marks = "INSERT OR REPLACE" if replace else "INSERT", ", ".join("?" * len(columns))
    return f"{verb} INTO {table} ({names}) VALUES ({marks})"


class BareSqlite:
    """The bound of SQLite, on the tables everstep has there."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    async def write(self, group: Group) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        if group.born:
            db.executemany(_insert("run", RUN), group.born)
        if group.entries:
            db.executemany(_insert("entry", ENTRY), group.entries)
        if group.ended:
            db.executemany(
                f"UPDATE run SET status = {DONE}, worker = NULL, output = ? WHERE id = ?", group.ended
            )
        if group.cells:
            db.executemany(_insert("kv", ("grp", "key", "value", "version"), replace=True), group.cells)
        db.execute("COMMIT")

    async def read_entries(self) -> list[bytes]:
        rows = self._db.execute(f"SELECT {', '.join(ENTRY)} FROM entry ORDER BY run, seq").fetchall()
        return [row[-1] for row in rows]


class BarePostgres:
    """The bound of PostgreSQL: one round trip a table and a transaction."""

    def __init__(self, server: Any) -> None:
        self._server = server

    async def write(self, group: Group) -> None:
        async with self._server.transaction():
            for sql, rows in (
                (_BORN, group.born),
                (_ENTRIES, group.entries),
                (_ENDED, group.ended),
                (_CELLS, group.cells),
            ):
                if rows:
                    await self._server.execute(sql, *map(list, zip(*rows, strict=True)))

    async def read_entries(self) -> list[bytes]:
        rows = await self._server.fetch("SELECT * FROM bare_entry ORDER BY run, seq")
        return [row["value"] for row in rows]


_POSTGRES = f"""
CREATE TABLE bare_run (
    id bigint PRIMARY KEY, rid text NOT NULL UNIQUE, handler text NOT NULL, mode smallint NOT NULL,
    status smallint NOT NULL, input bytea NOT NULL, created_at bigint NOT NULL, topic text,
    trace text NOT NULL, worker bigint, epoch bigint NOT NULL, output bytea);
CREATE INDEX bare_held ON bare_run (worker) WHERE worker IS NOT NULL;
CREATE TABLE bare_entry (
    run bigint NOT NULL, generation int NOT NULL, lane text NOT NULL, pos int NOT NULL, kind text NOT NULL,
    name text NOT NULL, fp bigint NOT NULL, seq int, at bigint NOT NULL, state smallint NOT NULL, value bytea,
    PRIMARY KEY (run, generation, lane, pos));
CREATE TABLE bare_kv (
    grp text NOT NULL, key text NOT NULL, value bytea NOT NULL, version bigint NOT NULL,
    PRIMARY KEY (grp, key));
SET synchronous_commit = on;
-- {DONE} and {RUNNING} are the numbers of statuses in everstep's own table.
"""
_BORN = f"""INSERT INTO bare_run ({", ".join(RUN)}) SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::smallint[], $5::smallint[], $6::bytea[], $7::bigint[],
    $8::text[], $9::text[], $10::bigint[], $11::bigint[])"""
_ENTRIES = f"""INSERT INTO bare_entry ({", ".join(ENTRY)}) SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::text[], $4::int[], $5::text[], $6::text[], $7::bigint[], $8::int[],
    $9::bigint[], $10::smallint[], $11::bytea[])"""
_ENDED = f"""UPDATE bare_run SET status = {DONE}, worker = NULL, output = n.output
    FROM unnest($1::bytea[], $2::bigint[]) n (output, id) WHERE bare_run.id = n.id"""
_CELLS = """INSERT INTO bare_kv SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[])
    ON CONFLICT (grp, key) DO UPDATE SET value = excluded.value, version = excluded.version"""


# ---- the rows


@dataclass(slots=True)
class Rows:
    """The rows that a work left in its store, run by run."""

    runs: list[Run] = field(default_factory=list)
    journals: list[list[Entry]] = field(default_factory=list)

    @classmethod
    async def of(cls, store: Store, handler: str, most: int, *, journals: bool = True) -> Rows:
        """Read them back, oldest run first."""
        runs = list(reversed(await store.runs(handler=handler, limit=most)))
        read = (
            [await store.entries(run.id, run.generation) for run in runs] if journals else [[] for _ in runs]
        )
        return cls(runs, read)

    def interleaved(self, width: int) -> Iterator[tuple[str, Row]]:
        """The rows in the order in which so many runs side by side write them."""
        for start in range(0, len(self.runs), width):
            runs = self.runs[start : start + width]
            journals = self.journals[start : start + width]
            for run in runs:
                row = _run(run)
                yield "born", (*row[:4], RUNNING, *row[5:9], 1, 1)
            for number in range(max(map(len, journals), default=0)):
                for run, journal in zip(runs, journals, strict=True):
                    if number < len(journal):
                        yield "entries", entry_row(run.id, journal[number])
            for run in runs:
                yield "ended", (run.output, run.id)


def entry_row(run: int, e: Entry) -> Row:
    """A row of the entry table."""
    return (run, 0, e.lane, e.pos, e.kind, e.name, e.fp, e.seq, e.at, e.state, e.value)


def grouped(rows: Iterable[tuple[str, Row]], size: float) -> list[Group]:
    """Cut a stream of rows into transactions of *size* rows on average."""
    groups: list[Group] = []
    for number, (kind, row) in enumerate(rows):
        if number >= len(groups) * max(size, 1.0):
            groups.append(Group())
        groups[-1].add(kind, row)
    return groups


async def time_groups(url: str, groups: Sequence[Group]) -> list[float]:
    """Seconds that each bare transaction took."""
    times = []
    async with bare(url) as connection:
        for group in groups:
            start = time.perf_counter()
            await connection.write(group)
            times.append(time.perf_counter() - start)
    return times
