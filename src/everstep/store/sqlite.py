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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from everstep import clock
from everstep.core.batch import Batch, Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.errors import ConfigError, NotAStore, SchemaTooNew, StoreError, StoreUnavailable
from everstep.ids import new_id
from everstep.store.base import (
    SCHEMA,
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
from everstep.store.sqlite_group import RUN, SQL, GroupWriter
from everstep.store.turnstile import Lifeline, Turnstile

T = TypeVar("T")
APPLICATION = 0x45565354  # "EVST" in the header of our files
BLOB = b"\x01"  # a value that starts so is the id of a blob

# Errors of SQLite that say "not now", not "not so".
_UNAVAILABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
}


def path_of(url: str) -> str:
    """
    The file a ``sqlite://`` URL names, or ``":memory:"``.

    >>> path_of("sqlite:///data/runs.db"), path_of("sqlite:////var/runs.db"), path_of("sqlite://")
    ('data/runs.db', '/var/runs.db', ':memory:')
    """
    if url in (":memory:", "sqlite://", "sqlite:///:memory:"):
        return ":memory:"
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or not parts.path.strip("/"):
        raise ConfigError(
            f"'{url}' names no SQLite file; write sqlite:///everstep.db (beside the program), "
            "sqlite:////var/lib/app/everstep.db (absolute) or sqlite:// (in memory)"
        )
    return unquote(parts.path[1:])


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
        self._db: sqlite3.Connection
        self._read_db: sqlite3.Connection
        self._writer: GroupWriter

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
        with self._said():
            if not self._memory:
                parent = Path(self._path).absolute().parent
                if not parent.is_dir():
                    raise StoreUnavailable(f"{self._path}: the folder {parent} does not exist; create it first")
                self._check_header()
                self._folder.mkdir(mode=0o700, exist_ok=True)
                self._turnstile = Turnstile(self._folder)
                self._turnstile.enter()
            try:
                self._db = self._connect()
                self._create()
            finally:
                if self._turnstile is not None:
                    self._turnstile.leave()
            self._writer = GroupWriter(self._db)

    def _check_header(self) -> None:
        """Look at the file before SQLite does, so that a foreign one is not touched at all."""
        path = Path(self._path)
        if path.is_dir():
            raise NotAStore(str(path), "it is a folder, and a SQLite store is one file")
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file:
                head = file.read(16)
            if head != b"SQLite format 3\x00":
                raise NotAStore(str(path), "it is no SQLite file")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=256
        )
        for pragma in ("synchronous=FULL", "cache_size=-65536", "wal_autocheckpoint=4000", "temp_store=MEMORY"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def _create(self) -> None:
        db = self._db
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION:
            if tables:
                raise NotAStore(self._path, "it is a SQLite file of another program")
            db.execute("PRAGMA journal_mode=WAL")
            schema = files("everstep.store.schema").joinpath("sqlite.sql").read_text("utf-8")
            db.executescript(
                f"BEGIN IMMEDIATE;\n{schema}\nPRAGMA application_id={APPLICATION};"
                f"PRAGMA user_version={SCHEMA};\nCOMMIT;"
            )
        elif version > SCHEMA:
            raise SchemaTooNew(self._path, found=version, known=SCHEMA)
        db.execute("PRAGMA journal_mode=WAL")

    def _open_reader(self) -> None:
        self._read_db = self._db if self._memory else self._connect()

    async def close(self) -> None:
        """Close connections and threads; this process's worker locks are freed."""
        line, reads, self._line, self._reads = self._line, self._reads, None, None
        if line is None:
            return
        if reads is not None and reads is not line:
            await reads.do(lambda: self._read_db.close() if hasattr(self, "_read_db") else None)
            reads.stop()
        await line.do(self._close_writer)
        line.stop()

    def _close_writer(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
        for lifeline in self._lifelines.values():
            lifeline.free(forget=False)
        self._lifelines.clear()
        if self._turnstile is not None:
            self._turnstile.close()
            self._turnstile = None

    # ---- doing things in the right thread

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say errors of SQLite in our words."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and (code & 0xFF) in _UNAVAILABLE:
                raise StoreUnavailable(f"{self._path}: {error}") from error
            if code is not None and (code & 0xFF) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise NotAStore(self._path, str(error)) from error
            raise
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error}") from error

    def _writing(self, fn: Callable[[], T]) -> T:
        with self._said():
            if self._turnstile is None:
                return fn()
            self._turnstile.enter()
            try:
                return fn()
            finally:
                self._turnstile.leave()

    def _transaction(self, fn: Callable[[], T]) -> T:
        def inside() -> T:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = fn()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            return result

        return self._writing(inside)

    async def _write(self, fn: Callable[[], T]) -> T:
        if self._line is None:
            raise StoreError(f"the store {self.url} is not open")
        return await self._line.do(lambda: self._transaction(fn))

    async def _read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        if self._reads is None:
            raise StoreError(f"the store {self.url} is not open")

        def inside() -> T:
            with self._said():
                return fn(self._read_db)

        return await self._reads.do(inside)

    # ---- the commit

    async def commit(
        self, worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        """One group, one transaction; then claims."""
        if self._line is None:
            raise StoreError(f"the store {self.url} is not open")
        return await self._line.do(
            lambda: self._writing(lambda: self._load_inputs(self._writer.write(worker, batches, claim, self.now())))
        )

    def _load_inputs(self, done: Committed) -> Committed:
        for run in done.claimed:
            run.input = self._whole(self._db, run.input)
        return done

    def now(self) -> int:
        """The clock of this machine, which all processes of a SQLite file share."""
        return self._clock.now_us()

    # ---- workers

    async def register(self, name: str, address: str, handlers: Sequence[str]) -> WorkerRef:
        """Enter this process, with a lock the kernel frees when it dies."""

        def insert() -> WorkerRef:
            row = self._db.execute(SQL["register"], (name, address, json.dumps(list(handlers)), self.now()))
            assert row.lastrowid is not None
            if not self._memory:
                self._lifelines[row.lastrowid] = Lifeline(self._folder, row.lastrowid)
            return WorkerRef(row.lastrowid, 1, name)

        return await self._write(insert)

    async def subscribe(self, subscriptions: Sequence[Subscription], handlers: Sequence[str]) -> None:
        """Replace the subscriptions of these handlers; adopt what waited for them."""

        def replace() -> None:
            before = set(self._db.execute(SQL["subscriptions"]))
            after = {row for row in before if row[1] not in set(handlers)}
            after |= {(s.topic, s.handler, int(s.fifo), s.delay) for s in subscriptions}
            if after == before:
                return
            self._db.execute("DELETE FROM subscription")
            self._db.executemany("INSERT INTO subscription VALUES (?, ?, ?, ?)", sorted(after))
            self._db.execute("UPDATE fact SET value = value + 1 WHERE name = 'subscriptions'")
            self._writer.adopt([s.topic for s in subscriptions], self.now())

        await self._write(replace)

    async def beat(self, worker: WorkerRef) -> bool:
        """Raise the counter; False when declared dead."""
        return await self._write(lambda: self._db.execute(SQL["beat"], (worker.id, worker.epoch)).rowcount == 1)

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

        def bury() -> int:
            if self._db.execute(SQL["bury"], (worker.id, worker.epoch)).rowcount == 0:
                return 0
            return self._db.execute(SQL["free_runs"], (worker.id,)).rowcount

        return await self._write(bury)

    async def retire(self, worker: WorkerRef) -> None:
        """Leave in order."""

        def leave() -> None:
            if self._db.execute(SQL["bury"], (worker.id, worker.epoch)).rowcount:
                self._db.execute(SQL["free_runs"], (worker.id,))
                self._db.execute(SQL["forget_worker"], (worker.id,))

        await self._write(leave)
        lifeline = self._lifelines.pop(worker.id, None)
        if lifeline is not None:
            lifeline.free(forget=True)

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
        return await self._write(lambda: (self._repair(), self._forget(self.now() - keep)))

    def _repair(self) -> int:
        db = self._db
        repairs = 0
        for (run,) in db.execute(SQL["lost_wakes"]).fetchall() + db.execute(SQL["orphaned_runs"]).fetchall():
            db.execute("UPDATE run SET status = 2, worker = NULL, due_at = NULL WHERE id = ?", (run,))
            repairs += 1
        for name in db.execute(SQL["headless_keys"]).fetchall():
            head = db.execute(SQL["next_of_key"], name).fetchone()
            db.execute(SQL["make_ready"], head)
            db.execute("UPDATE key SET head = ? WHERE handler = ? AND key = ?", (*head, *name))
            repairs += 1
        return repairs

    def _forget(self, before: int) -> int:
        db = self._db
        old = db.execute(SQL["old_runs"], (before,)).fetchall()
        ids = [(run,) for run, _ in old]
        for table in ("entry", "promise"):
            db.executemany(f"DELETE FROM {table} WHERE run = ?", ids)
        db.executemany("DELETE FROM blob WHERE owner = ?", [(rid,) for _, rid in old])
        db.executemany("DELETE FROM run WHERE id = ?", ids)
        db.execute("DELETE FROM worker WHERE alive = 0 AND NOT EXISTS (SELECT 1 FROM run WHERE worker = worker.id)")
        return len(old)

    # ---- reading

    def _runs(self, db: sqlite3.Connection, sql: str, arguments: Sequence[object]) -> list[Run]:
        runs = [Run(*row) for row in db.execute(sql, tuple(arguments))]
        for run in runs:
            run.input = self._whole(db, run.input)
            run.output = None if run.output is None else self._whole(db, run.output)
        return runs

    @staticmethod
    def _whole(db: sqlite3.Connection, value: bytes) -> bytes:
        """The value itself, where the row only names a blob."""
        if value[:1] != BLOB:
            return value
        row = db.execute(SQL["get_blob"], (value[1:].decode(),)).fetchone()
        if row is None:
            raise StoreError(f"the large value {value[1:].decode()} is gone from the store")
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
                if entry.value is not None and entry.value[:1] == BLOB:
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
        await self._write(lambda: self._db.execute(SQL["put_blob"], (blob, owner, self.now(), data)))
        return blob

    async def get_blob(self, blob: str) -> bytes:
        """Read it back."""
        return await self._read(lambda db: self._whole(db, BLOB + blob.encode()))
