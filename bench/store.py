"""What a store alone can do: groups of batches through `commit`, against raw inserts in the same run.

    python -m bench.store                      SQLite in a new file
    python -m bench.store postgresql://...     PostgreSQL, in a schema of its own

Entries: N runs, each adds one entry in every group.  Lifecycles: each group
publishes N messages, claims N and finishes the N claimed before.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from everstep.clock import system
from everstep.core.batch import Batch, Begin, Finish, Mode, Publish, Run
from everstep.core.journal import OK, Entry
from everstep.store.base import Claim, Store, Subscription, WorkerRef

SECONDS = 3.0
VALUE = b'{"receipt":"ch_3Nabcdefghijklmnop","amount":1999,"currency":"eur","paid":true}'
ROW = ("0", 1, "run", "charge", 1234567890123456, 1, 1_700_000_000_000_000, OK, VALUE)


async def repeat(act: Callable[[int], object], *, per: int) -> float:
    """How many a second: *act* is one group of *per*."""
    end, number = system.monotonic() + SECONDS, 0
    begun = system.monotonic()
    while system.monotonic() < end:
        done = act(number)
        if asyncio.isfuture(done) or asyncio.iscoroutine(done):
            await done
        number += 1
    return number * per / (system.monotonic() - begun)


async def entries(store: Store, me: WorkerRef, per: int) -> float:
    """One entry of each of *per* runs in a group; a run ends at ten."""
    runs: list[Run] = []

    async def group(number: int) -> None:
        if number % 10 == 0:
            begins = [
                Batch(changes=[Begin(f"e{per}-{number}-{n}", "h", Mode.REPLAY, b"1", claim=True)])
                for n in range(per)
            ]
            done = await store.commit(me, begins)
            runs[:] = [outcome.results[0].run for outcome in done.outcomes]  # type: ignore[union-attr]
        lane, _, *rest = ROW
        batches = [Batch(run.id, run.epoch, [Entry(lane, number % 10, *rest)]) for run in runs]  # type: ignore[arg-type]
        await store.commit(me, batches)

    return await repeat(group, per=per)


async def lifecycles(store: Store, me: WorkerRef, per: int) -> float:
    """Publish, claim and finish *per* messages in one group."""
    claimed: list[Run] = []

    async def group(number: int) -> None:
        batches = [Batch(changes=[Publish(f"m_{per}.{number}.{n}", "t", b'{"n":1}')]) for n in range(per)]
        batches += [Batch(run.id, run.epoch, [], [Finish("finish", b"null")]) for run in claimed]
        done = await store.commit(me, batches, Claim(per, {"t": per}))
        claimed[:] = done.claimed

    return await repeat(group, per=per)


def raw_sqlite(folder: Path, per: int) -> Callable[[int], object]:
    """The same rows as entries, by executemany in transactions that reach the disk."""
    db = sqlite3.connect(folder / f"raw{per}.db", isolation_level=None)
    for statement in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "CREATE TABLE entry (run, generation, lane, pos, kind, name, fp, seq, at, state, value)",
        "CREATE UNIQUE INDEX address ON entry (run, generation, lane, pos)",
    ):
        db.execute(statement)

    def group(number: int) -> None:
        lane, _, *rest = ROW
        first = number // 10 * per
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(first + n, 0, lane, number % 10, *rest) for n in range(per)],
        )
        db.execute("COMMIT")

    return group


async def raw_postgres(url: str, per: int) -> Callable[[int], object]:
    """The same rows as entries, by one unnest insert a transaction."""
    import asyncpg

    connection = await asyncpg.connect(url)
    table = f"raw_{uuid.uuid4().hex[:8]}"
    columns = {
        "run": "bigint",
        "generation": "int",
        "lane": "text",
        "pos": "int",
        "kind": "text",
        "name": "text",
    }
    columns |= {"fp": "bigint", "seq": "int", "at": "bigint", "state": "smallint", "value": "bytea"}
    words = ", ".join(map(" ".join, columns.items()))
    await connection.execute(f"CREATE TABLE {table} ({words}, PRIMARY KEY (run, generation, lane, pos))")
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(columns.values(), 1))
    insert = await connection.prepare(f"INSERT INTO {table} SELECT * FROM unnest({arrays})")

    async def group(number: int) -> None:
        lane, _, *rest = ROW
        first = number // 10 * per
        rows = [(first + n, 0, lane, number % 10, *rest) for n in range(per)]
        await insert.fetch(*map(list, zip(*rows, strict=True)))

    return group


async def main(arguments: list[str]) -> None:
    store: Store
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        if arguments:
            from everstep.store.postgres import PostgresStore

            mark = "&" if "?" in arguments[0] else "?"
            store = PostgresStore(f"{arguments[0]}{mark}schema=bench_{uuid.uuid4().hex[:8]}")
        else:
            from everstep.store.sqlite import SqliteStore

            store = SqliteStore(f"sqlite:///{folder}/runs.db")
        await store.open()
        await store.subscribe([Subscription("t", "t")], ["t"])
        me = await store.register("bench", "", ["h", "t"])
        for per in (1, 10, 100, 500):
            raw = await raw_postgres(arguments[0], per) if arguments else raw_sqlite(Path(folder), per)
            bound = await repeat(raw, per=per)
            kept = await entries(store, me, per)
            cycles = await lifecycles(store, me, per)
            print(
                f"groups of {per:3}: entries {kept:9,.0f}/s ({kept / bound:4.2f} of raw {bound:9,.0f}/s),"
                f" lifecycles {cycles:8,.0f}/s",
                flush=True,
            )
        await store.retire(me)
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
