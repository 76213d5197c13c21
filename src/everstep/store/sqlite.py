"""The SQLite store: one file, one writer thread, several processes.

WAL with ``synchronous=FULL``: what `commit` returned has reached the disk.
Writes happen in one thread, groups in turn with other processes
(`turnstile`); reads have a connection of their own.  `:memory:` has one
connection for both.

Floor 2.  May import: core, store.base, floor 0.  Imported by: app.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from everstep import clock
from everstep.core.batch import Batch, Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.errors import StoreError
from everstep.ids import new_id
from everstep.log import Logger
from everstep.store import sqlite_sweep
from everstep.store.base import (
    Claim,
    Committed,
    KvRow,
    PromiseRow,
    Subscription,
    Unrouted,
    WorkerRef,
    WorkerRow,
)
from everstep.store.line import Line
from everstep.store.rows import RUN, answered, blob_of
from everstep.store.sqlite_file import check, connect, create, in_our_words, path_of
from everstep.store.sqlite_group import SQL, GroupWriter
from everstep.store.turnstile import Lifeline, Turnstile

T = TypeVar("T")
_log = Logger("everstep.store")


class SqliteStore:
    """`Store` on one SQLite file (see `store.base` for what each method promises)."""

    def __init__(self, url: str, *, clock: clock.Clock = clock.system) -> None:
        self.url = url
        self._path = path_of(url)
        self._clock = clock
        self._memory = self._path == ":memory:"
        self._folder = Path(f"{self._path}.locks")
        self._lifelines: dict[int, Lifeline] = {}
        self._turnstile: Turnstile | None = None
        self._line: Line | None = None
        self._reads: Line | None = None
        self._db: sqlite3.Connection | None = None
        self._read_db: sqlite3.Connection | None = None
        self._last_blob = ""  # where the sweep is in the large values

    # ---- opening and closing

    async def open(self) -> None:
        """Open the file, create the schema in a new one, refuse what is not ours."""
        self._line = Line("everstep-sqlite-writer")
        self._reads = self._line if self._memory else Line("everstep-sqlite-reader")
        try:
            await self._line.do(self._open_writer)
            await self._reads.do(self._open_reader)
        except BaseException:
            await self.close()
            raise

    def _open_writer(self) -> None:
        with in_our_words(self._path):
            if not self._memory:
                check(self._path)
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._turnstile = Turnstile(self._folder)
                self._turnstile.enter()
            try:
                self._db = connect(self._path)
                create(self._db, self._path)
            finally:
                if self._turnstile is not None:
                    self._turnstile.leave()
            self._writer = GroupWriter(self._db)

    def _open_reader(self) -> None:
        with in_our_words(self._path):
            self._read_db = self._db if self._memory else connect(self._path)

    async def close(self) -> None:
        """Close connections and threads; this process's worker locks are freed."""
        line, reads, self._line, self._reads = self._line, self._reads, None, None
        if line is None:
            return
        if reads is not None and reads is not line:
            await reads.do(self._close_reader)
            reads.stop()
        await line.do(self._close_writer)
        line.stop()

    def _close_reader(self) -> None:
        db, self._read_db = self._read_db, None
        if db is not None:
            db.close()

    def _close_writer(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()
        for lifeline in self._lifelines.values():
            lifeline.free(forget=False)
        self._lifelines.clear()
        if self._turnstile is not None:
            self._turnstile.close()
            self._turnstile = None

    # ---- doing things in the right thread

    def _in_turn(self, fn: Callable[[], T]) -> T:
        """Write when it is this process's turn."""
        if self._turnstile is None:
            return fn()
        self._turnstile.enter()
        try:
            return fn()
        finally:
            self._turnstile.leave()

    async def _write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction in the writer thread."""

        def transaction(db: sqlite3.Connection) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = fn(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result

        return await self._on_writer(lambda db: self._in_turn(lambda: transaction(db)))

    async def _on_writer(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        line, db = self._line, self._db
        if line is None or db is None:
            raise StoreError(f"the store {self.url} is not open")

        def inside() -> T:
            with in_our_words(self._path):
                return fn(db)

        return await line.do(inside)

    async def _read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        line, db = self._reads, self._read_db
        if line is None or db is None:
            raise StoreError(f"the store {self.url} is not open")

        def inside() -> T:
            with in_our_words(self._path):
                return fn(db)

        return await line.do(inside)

    # ---- the commit

    async def commit(
        self, worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        """One group, one transaction; then claims."""

        def write(db: sqlite3.Connection) -> Committed:
            writer = self._writer

            def complete(done: Committed) -> None:
                for run in answered(done):
                    self._fill(db, run)

            if not batches and (claim is None or not writer.anything(claim, self.now())):
                return Committed([])
            return self._in_turn(lambda: writer.write(worker, batches, claim, self.now(), complete))

        return await self._on_writer(write)

    def now(self) -> int:
        """The clock of this machine, which all processes of a SQLite file share."""
        return self._clock.now_us()

    # ---- workers

    async def register(self, name: str, address: str, handlers: Sequence[str]) -> WorkerRef:
        """Enter this process, with a lock the kernel frees when it dies."""

        def insert(db: sqlite3.Connection) -> WorkerRef:
            row = db.execute(SQL["register"], (name, address, json.dumps(list(handlers)), self.now()))
            number = row.lastrowid
            assert number is not None
            if not self._memory:
                self._free(number, forget=False)  # of a try that was rolled back
                self._lifelines[number] = Lifeline(self._folder, number)
            return WorkerRef(number, 1, name)

        return await self._write(insert)

    async def subscribe(self, subscriptions: Sequence[Subscription], handlers: Sequence[str]) -> None:
        """Replace the subscriptions of these handlers; adopt what waited for them."""

        def replace(db: sqlite3.Connection) -> None:
            before = set(db.execute(SQL["subscriptions"]))
            after = {row for row in before if row[1] not in set(handlers)}
            after |= {(s.topic, s.handler, int(s.fifo), s.delay) for s in subscriptions}
            if after != before:
                db.execute("DELETE FROM subscription")
                db.executemany("INSERT INTO subscription VALUES (?, ?, ?, ?)", sorted(after))
                db.execute("UPDATE fact SET value = value + 1 WHERE name = 'subscriptions'")

        await self._write(replace)
        topics = {s.topic for s in subscriptions}
        last: int | None = 0
        while last is not None:
            last = await self._write(lambda db, after=last: self._writer.adopt(topics, after, self.now()))  # type: ignore[misc]

    async def beat(self, worker: WorkerRef) -> bool:
        """Raise the counter; False when declared dead."""
        seen = (worker.id, worker.epoch)
        return await self._write(lambda db: db.execute(SQL["beat"], seen).rowcount == 1)

    async def workers(self) -> list[WorkerRow]:
        """Every worker row."""

        def read(db: sqlite3.Connection) -> list[WorkerRow]:
            return [
                WorkerRow(id_, name, epoch, beat, address, tuple(json.loads(handlers)), bool(alive))
                for id_, name, epoch, beat, address, handlers, alive in db.execute(SQL["workers"])
            ]

        return await self._read(read)

    async def dead(self, worker: WorkerRow) -> bool:
        """True when its lock is free; in memory nobody else exists."""
        return not self._memory and Lifeline.cut(self._folder, worker.id)

    async def take_over(self, worker: WorkerRow) -> int:
        """Bury the worker and free its runs."""

        def bury(db: sqlite3.Connection) -> int:
            if db.execute(SQL["bury"], (worker.id, worker.epoch)).rowcount == 0:
                return 0
            return db.execute(SQL["free_runs"], (worker.id,)).rowcount

        return await self._write(bury)

    async def retire(self, worker: WorkerRef) -> None:
        """Leave in order."""

        def leave(db: sqlite3.Connection) -> None:
            if db.execute(SQL["bury"], (worker.id, worker.epoch)).rowcount:
                db.execute(SQL["free_runs"], (worker.id,))
                db.execute(SQL["forget_worker"], (worker.id,))

        await self._write(leave)
        self._free(worker.id, forget=True)

    def _free(self, worker: int, *, forget: bool) -> None:
        lifeline = self._lifelines.pop(worker, None)
        if lifeline is not None:
            lifeline.free(forget=forget)

    async def asked(self, worker: WorkerRef) -> list[Run]:
        """What was asked of this worker's runs."""
        return await self._read(lambda db: self._runs(db, SQL["asked"], (worker.id,)))

    async def next_due(self) -> int | None:
        """When the next run falls due."""
        return await self._read(lambda db: db.execute(SQL["next_due"]).fetchone()[0])

    async def changes(self) -> int:
        """A number that differs after another process wrote (``PRAGMA data_version``)."""
        return await self._read(lambda db: db.execute("PRAGMA data_version").fetchone()[0])

    async def sweep(self, keep: int) -> tuple[int, int]:
        """Repair what must never be, forget what is old."""
        before = self.now() - keep
        repairs = deleted = 0
        if await self._read(sqlite_sweep.torn):
            repairs = await self._write(sqlite_sweep.repair)
        if await self._read(lambda db: sqlite_sweep.old(db, before)):
            deleted, workers = await self._write(lambda db: sqlite_sweep.forget(db, before))
            for worker in workers:
                Lifeline.forget(self._folder, worker)
        last = self._last_blob
        lost, self._last_blob = await self._read(lambda db: sqlite_sweep.unnamed_blobs(db, last, self.now()))
        if lost:
            rows = [(blob,) for blob in lost]
            await self._write(lambda db: db.executemany("DELETE FROM blob WHERE id = ?", rows))
        return repairs, deleted

    # ---- reading

    def _runs(self, db: sqlite3.Connection, sql: str, arguments: Sequence[object]) -> list[Run]:
        return [self._fill(db, Run(*row)) for row in db.execute(sql, tuple(arguments)).fetchall()]

    def _fill(self, db: sqlite3.Connection, run: Run) -> Run:
        """Put large values in their places."""
        run.input = self._whole(db, run.input)
        run.output = None if run.output is None else self._whole(db, run.output)
        return run

    def _whole(self, db: sqlite3.Connection, value: bytes) -> bytes:
        """The value itself, where the row only names it; what is gone is logged, and stays a name."""
        blob = blob_of(value)
        if blob is None:
            return value
        row = db.execute(SQL["get_blob"], (blob,)).fetchone()
        if row is None:
            _log.error("a large value is gone from the store", {"blob": blob, "store": self.url})
            return value
        whole: bytes = row[0]
        return whole

    async def run(self, rid: str) -> Run | None:
        """One run."""
        found = await self._read(lambda db: self._runs(db, SQL["run_by_rid"], (rid,)))
        return found[0] if found else None

    async def runs(
        self,
        *,
        handler: str | None = None,
        statuses: Sequence[int] = (),
        topics_only: bool = False,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """Runs, newest first."""
        where, arguments = ["1"], list[object]()
        if handler is not None:
            where.append("handler = ?")
            arguments.append(handler)
        if statuses:
            where.append(f"status IN ({', '.join('?' for _ in statuses)})")
            arguments += [int(s) for s in statuses]
        if topics_only:
            where.append("topic IS NOT NULL AND topic NOT LIKE '% /%'")
        if before is not None:
            where.append("id < ?")
            arguments.append(before)
        columns = ", ".join(f'"{c}"' for c in RUN)
        sql = f"SELECT {columns} FROM run WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"
        return await self._read(lambda db: self._runs(db, sql, [*arguments, limit]))

    async def counts(self) -> dict[tuple[str, int], int]:
        """Runs of each handler and status."""
        return await self._read(lambda db: {(h, Status(s)): n for h, s, n in db.execute(SQL["counts"])})

    async def entries(self, run: int, generation: int) -> list[Entry]:
        """The journal."""

        def read(db: sqlite3.Connection) -> list[Entry]:
            found = [Entry(*row) for row in db.execute(SQL["entries"], (run, generation))]
            for entry in found:
                if entry.value is not None:
                    entry.value = self._whole(db, entry.value)
            return found

        return await self._read(read)

    async def promises(self, run: int) -> list[PromiseRow]:
        """Settled promises."""
        return await self._read(lambda db: [PromiseRow(*row) for row in db.execute(SQL["promises"], (run,))])

    async def kv_get(self, group: str, key: str) -> KvRow | None:
        """One value."""

        def read(db: sqlite3.Connection) -> KvRow | None:
            row = db.execute(SQL["kv_get"], (group, key)).fetchone()
            return None if row is None else KvRow(*row)

        return await self._read(read)

    async def kv_list(self, group: str) -> list[KvRow]:
        """A group."""
        return await self._read(lambda db: [KvRow(*row) for row in db.execute(SQL["kv_list"], (group,))])

    async def kv_groups(self) -> list[tuple[str, int]]:
        """All groups."""
        return await self._read(lambda db: db.execute(SQL["kv_groups"]).fetchall())

    async def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""

        def read(db: sqlite3.Connection) -> list[Subscription]:
            return [Subscription(t, h, bool(f), d) for t, h, f, d in db.execute(SQL["subscriptions"])]

        return await self._read(read)

    async def unrouted(self, limit: int = 50) -> list[Unrouted]:
        """Messages without a subscriber."""
        return await self._read(lambda db: [Unrouted(*row) for row in db.execute(SQL["unrouted"], (limit,))])

    # ---- large values

    async def put_blob(self, owner: str, data: bytes) -> str:
        """Keep a large value."""
        blob = new_id("b")
        await self._write(lambda db: db.execute(SQL["put_blob"], (blob, owner, self.now(), data)))
        return blob

    async def get_blob(self, blob: str) -> bytes:
        """Read it back."""
        row = await self._read(lambda db: db.execute(SQL["get_blob"], (blob,)).fetchone())
        if row is None:
            raise StoreError(f"the large value {blob} is gone from the store {self.url}")
        data: bytes = row[0]
        return data
