"""The PostgreSQL store: a schema of its own in any database, many processes on many hosts.

Three connections: one writes groups, one reads, and one is the life-line that
holds this worker's advisory lock and hears notifications.  A group is one
transaction (`postgres_group`); when its connection is lost while it commits,
the number in the worker's row says afterwards whether it was applied.

Floor 2.  May import: core, store.base, floor 0.  Imported by: app.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files

import asyncpg

from everstep import clock
from everstep.core.batch import APPLIED, Batch, Outcome, Refused, Unknown
from everstep.errors import NotAStore, SchemaTooNew, StoreError, StoreUnavailable
from everstep.ids import new_id
from everstep.log import Logger
from everstep.store.base import SCHEMA, Claim, Committed, Subscription, WorkerRef, WorkerRow
from everstep.store.postgres_group import SQL, Fenced, GroupWriter, columns
from everstep.store.postgres_life import Lifeline
from everstep.store.postgres_link import (
    PLANNED,
    REPEAT,
    TRIES,
    Connection,
    Link,
    Lost,
    ServerClock,
    in_our_words,
    place_of,
    roll_back,
)
from everstep.store.postgres_reads import PostgresReads
from everstep.store.rows import messages_of

DOUBT = 300.0  # seconds to find out what became of a commit whose answer was lost
SAME = 3  # times that a unique index may be in the way before it is the batch's own fault
HUSH = 0.01  # seconds between two notifications
_WAIT = 86_400_000_000  # a day, in microseconds: how long a large value may wait for its commit
_log = Logger("everstep.store")


class PostgresStore(PostgresReads):
    """`Store` in one schema of a database (see `store.base` for what each method promises)."""

    def __init__(self, url: str, *, clock: clock.Clock = clock.system) -> None:
        self.url = url
        self._place = place_of(url)
        self._clock = ServerClock(clock)
        self._main = Link(self._place, self._clock, PLANNED)
        self._side = Link(self._place, self._clock, {})
        self._life = Lifeline(Link(self._place, self._clock, {}))
        self._writer: tuple[Connection, GroupWriter] | None = None
        self._token = new_id("s")
        self._announcement: asyncio.Task[None] | None = None
        self._more_to_say = False
        self._last_blob = ""  # where the sweep is in the large values
        self._open = False

    # ---- opening and closing

    async def open(self) -> None:
        """Connect, create the tables in an empty schema, refuse what is not ours."""
        self._life = Lifeline(Link(self._place, self._clock, {}))
        try:
            await self._main.transaction(self._create)
            await self._side.do(self._clock.set_by)
        except asyncpg.InsufficientPrivilegeError as error:
            await self.close()
            raise StoreUnavailable(f"{self._place.shown}: {error}") from error
        except BaseException:
            await self.close()
            raise
        self._open = True

    async def _create(self, db: Connection) -> None:
        place = self._place
        await db.execute("SELECT pg_advisory_xact_lock($1)", place.key("schema"))
        if await db.fetchval("SELECT to_regnamespace($1)", place.quoted) is None:
            await db.execute(f"CREATE SCHEMA {place.quoted}")
        tables = await db.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace($1)", place.quoted
        )
        if not tables:
            schema = files("everstep.store.schema").joinpath("postgres.sql").read_text("utf-8")
            await db.execute(schema)
            return
        version: int | None = None
        if "fact" in {row[0] for row in tables}:
            try:
                version = await db.fetchval("SELECT value FROM fact WHERE name = 'everstep'")
            except asyncpg.UndefinedColumnError:
                pass  # somebody else's table of that name
        if version is None:
            raise NotAStore(place.shown, "the schema holds tables of another program")
        if version > SCHEMA:
            raise SchemaTooNew(place.shown, found=version, known=SCHEMA)

    async def close(self) -> None:
        """Close the connections; the locks of this process's workers are free."""
        self._open = False
        if self._announcement is not None:
            self._announcement.cancel()
            await asyncio.gather(self._announcement, return_exceptions=True)
            self._announcement = None
        await self._life.close()
        await self._side.close()
        await self._main.close()

    # ---- the commit

    async def commit(
        self, worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        """One group, one transaction; then claims."""
        if not self._open:
            raise StoreError(f"the store {self._place.shown} is not open")
        if not batches and (claim is None or worker is None):
            return Committed([])
        async with self._main.lock:
            done = await self._through(worker, batches, claim)
        if _for_others(done, claim):
            self._announce()
        return done

    async def _through(
        self, worker: WorkerRef | None, batches: Sequence[Batch], wanted: Claim | None
    ) -> Committed:
        """Try until the group is through, or cannot be."""
        tries = losses = 0
        while True:
            db = await self._main.get()
            writer = self._writer_on(db)
            try:
                with in_our_words(self._place, db):
                    return await self._once(writer, worker, batches, wanted)
            except Fenced:
                await roll_back(db)
                assert worker is not None
                row = await db.fetchrow("SELECT epoch, commits FROM worker WHERE id = $1", worker.id)
                if row is None or row[0] != worker.epoch:
                    return Committed([Refused("worker_epoch", row and row[0])] * len(batches))
                tries += 1
                if tries >= TRIES:
                    raise
                worker.commits = row[1]  # an earlier commit was given up in doubt
            except REPEAT as error:
                await roll_back(db)
                tries += 1
                if tries >= (SAME if isinstance(error, asyncpg.UniqueViolationError) else TRIES):
                    raise
                await asyncio.sleep(random.uniform(0, 0.005 * tries))
            except Lost as lost:
                backend = self._main.backend
                self._main.drop()
                losses += 1
                done = await self._after_loss(writer, worker, batches, backend, lost)
                if done is not None:
                    return done
                if losses > 1:
                    raise StoreUnavailable(str(lost)) from lost
            except StoreUnavailable:
                self._main.drop()  # the next connection may be to a server that takes writes
                raise
            except BaseException:
                await self._clear(db)
                raise

    async def _clear(self, db: Connection) -> None:
        """After an error of any kind: no transaction is left open on the connection."""
        try:
            await roll_back(db)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._main.drop()

    def _writer_on(self, db: Connection) -> GroupWriter:
        if self._writer is None or self._writer[0] is not db:
            self._writer = (db, GroupWriter(db, self._place))
        return self._writer[1]

    async def _once(
        self, writer: GroupWriter, worker: WorkerRef | None, batches: Sequence[Batch], wanted: Claim | None
    ) -> Committed:
        writer.decided, writer.light_sent = None, False
        now = self.now()
        if not batches and wanted is not None and not await writer.anything(wanted, now):
            return Committed([])
        if worker is not None and wanted is None and GroupWriter.is_light(batches):
            ours = await writer.write_light(worker, batches)
            worker.commits += 1
            return await self._rest(writer, worker, batches, ours)
        done = await writer.write(worker, batches, wanted, now)
        if worker is not None:
            worker.commits += 1
        return done

    async def _rest(
        self, writer: GroupWriter, worker: WorkerRef, batches: Sequence[Batch], ours: dict[int, int]
    ) -> Committed:
        """Outcomes of a group of entries; those that were not taken are looked at closely."""
        others = [batch for batch in batches if ours.get(batch.run) != batch.epoch]
        refused = iter((await writer.write(worker, others, None, self.now())).outcomes if others else ())
        worker.commits += bool(others)
        outcomes: list[Outcome] = [
            APPLIED if ours.get(batch.run) == batch.epoch else next(refused) for batch in batches
        ]
        return Committed(outcomes)

    # ---- when the connection was lost

    async def _after_loss(
        self,
        writer: GroupWriter,
        worker: WorkerRef | None,
        batches: Sequence[Batch],
        backend: asyncpg.Record,
        lost: Lost,
    ) -> Committed | None:
        """What became of a group; None: nothing, try again."""
        if writer.decided is None and not writer.light_sent:
            return None
        if worker is None:
            return Committed([Unknown(str(lost))] * len(batches))
        _log.warning("lost the store while committing; finding out what became of it", {"error": str(lost)})
        give_up = self._clock.clock.monotonic() + DOUBT
        pause = 0.05
        while self._open and self._clock.clock.monotonic() < give_up:
            try:
                return await self._found_out(writer, worker, batches, backend)
            except (StoreUnavailable, Lost):
                self._main.drop()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
        return Committed([Unknown(str(lost))] * len(batches))

    async def _found_out(
        self, writer: GroupWriter, worker: WorkerRef, batches: Sequence[Batch], backend: asyncpg.Record
    ) -> Committed | None:
        db = await self._main.get()
        with in_our_words(self._place, db):
            # Its transaction holds the worker's row: once we have the lock, it is over.
            await db.execute(SQL["end_backend"], *backend)
            row = await db.fetchrow("SELECT commits, epoch FROM worker WHERE id = $1 FOR UPDATE", worker.id)
            if row is None:
                return Committed([Unknown("this worker is not known any more")] * len(batches))
            if row[0] <= worker.commits:
                return None
            if writer.decided is not None:
                worker.commits = row[0]
                decider, done = writer.decided
                if len(done.outcomes) != len(batches):
                    return None  # the end of a group of entries, which may be written again
                decider.committed()
                return done
            if row[1] != worker.epoch:
                return Committed([Unknown("this worker was declared dead meanwhile")] * len(batches))
            ours = await self._writer_on(db).light_epochs(worker, batches)
            worker.commits = row[0]
            return await self._rest(self._writer_on(db), worker, batches, ours)

    def now(self) -> int:
        """The server's clock."""
        return self._clock.now()

    # ---- telling others

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call *heard* when a process somewhere says that there is work."""
        await self._life.listen(heard, self._token)

    def _announce(self) -> None:
        """Say so, at once, and then not more often than others need to hear it."""
        self._more_to_say = True
        if self._announcement is None or self._announcement.done():
            self._announcement = asyncio.get_running_loop().create_task(self._say(), name="everstep-notify")

    async def _say(self) -> None:
        while self._more_to_say:
            self._more_to_say = False
            try:
                await self._fetch("SELECT pg_notify($1, $2)", self._place.channel, self._token)
            except StoreUnavailable:
                return  # they look of their own accord
            await asyncio.sleep(HUSH)

    # ---- workers

    async def register(self, name: str, address: str, handlers: Sequence[str]) -> WorkerRef:
        """Enter this process, with a lock the server frees when its connection dies."""
        [row] = await self._fetch(SQL["new_worker"])
        number: int = row[0]
        await self._life.hold(self._lock_of(number))
        await self._fetch(SQL["register"], number, name, address, list(handlers), self.now())
        return WorkerRef(number, 1, name)

    def _lock_of(self, worker: int) -> int:
        return self._place.key(f"worker/{worker}")

    async def subscribe(self, subscriptions: Sequence[Subscription], handlers: Sequence[str]) -> None:
        """Replace the subscriptions of these handlers; adopt what waited for them."""
        named = set(handlers)

        async def replace(db: Connection) -> None:
            await db.execute("SELECT pg_advisory_xact_lock($1)", self._place.key("subscriptions"))
            before = {Subscription(*row) for row in await db.fetch(SQL["subscriptions"])}
            after = {row for row in before if row.handler not in named} | set(subscriptions)
            if after != before:
                rows = [(s.topic, s.handler, s.fifo, s.delay) for s in after]
                await db.execute("DELETE FROM subscription")
                await db.execute(SQL["subscribe"], *columns(rows, 4))
                await db.execute("UPDATE fact SET value = value + 1 WHERE name = 'subscriptions'")

        await self._main.transaction(replace)
        topics = list({s.topic for s in subscriptions})
        last: int | None = 0 if topics else None
        while last is not None:
            last = await self._adopt(topics, last)

    async def _adopt(self, topics: list[str], after: int) -> int | None:
        async def adopt(db: Connection) -> int | None:
            # Nobody publishes meanwhile: what was unrouted when somebody subscribed is here.
            await db.execute("SELECT pg_advisory_xact_lock($1)", self._place.key("subscriptions"))
            return await self._writer_on(db).adopt(topics, after, self.now())

        return await self._main.transaction(adopt)

    async def beat(self, worker: WorkerRef) -> bool:
        """Raise the counter; False when declared dead."""

        async def beat(db: Connection) -> bool:
            await self._clock.set_by(db)
            return await db.fetchval(SQL["beat"], worker.id, worker.epoch) is not None

        return await self._side.do(beat)

    async def dead(self, worker: WorkerRow) -> bool:
        """True when its lock is free."""
        [row] = await self._fetch("SELECT pg_try_advisory_xact_lock($1)", self._lock_of(worker.id))
        free: bool = row[0]
        return free

    async def take_over(self, worker: WorkerRow) -> int:
        """Bury the worker and free its runs."""

        async def bury(db: Connection) -> int:
            if await db.fetchval(SQL["bury"], worker.id, worker.epoch) is None:
                return 0
            return len(await db.fetch(SQL["free_runs"], worker.id))

        return await self._main.transaction(bury)

    async def retire(self, worker: WorkerRef) -> None:
        """Leave in order."""

        async def go(db: Connection) -> None:
            if await db.fetchval(SQL["bury"], worker.id, worker.epoch) is not None:
                await db.fetch(SQL["free_runs"], worker.id)
                await db.execute(SQL["forget_worker"], worker.id)

        await self._main.transaction(go)
        await self._life.free(self._lock_of(worker.id))

    # ---- the sweep

    async def sweep(self, keep: int) -> tuple[int, int]:
        """Repair what must never be, forget what is old."""
        before = self.now() - keep
        [row] = await self._fetch(SQL["torn"])
        repairs = await self._main.transaction(self._repair) if row[0] else 0
        deleted = await self._main.transaction(lambda db: self._forget(db, before))
        found = await self._fetch(SQL["unnamed_blobs"], self._last_blob, self.now() - _WAIT)
        self._last_blob = found[-1][0] if found else ""
        lost = [blob for blob, owned in found if not owned]
        if lost:
            await self._fetch(SQL["drop_lost_blobs"], lost)
        return repairs, deleted

    async def _repair(self, db: Connection) -> int:
        headless = await db.fetch(SQL["headless_keys"])
        if headless:
            heads = await db.fetch(SQL["next_of_keys"], *columns(headless, 2))
            await db.execute(SQL["name_heads"], *columns(heads, 3))
        woken = await db.fetch(SQL["lost_wakes"])
        orphans = await db.fetch(SQL["orphaned_runs"])
        return len(headless) + len(woken) + len(orphans)

    async def _forget(self, db: Connection, before: int) -> int:
        gone = await db.fetch(SQL["old_runs"], before)
        if gone:
            ids = [row[0] for row in gone]
            await db.execute(SQL["drop_entries"], ids)
            await db.execute(SQL["drop_promises"], ids)
            await db.execute(
                SQL["drop_blobs"], [f"run:{row[0]}" for row in gone] + [f"rid:{row[1]}" for row in gone]
            )
            # Every Step of a topic shares the message's value: it goes with the last of them.
            await db.execute(SQL["drop_message_blobs"], list(messages_of(row[1] for row in gone)))
        await db.execute(SQL["forget_workers"])
        return len(gone)

    # ---- large values

    async def put_blob(self, owner: str, data: bytes) -> str:
        """Keep a large value."""
        blob = new_id("b")
        await self._fetch(SQL["put_blob"], blob, owner, self.now(), data)
        return blob


def _for_others(done: Committed, wanted: Claim | None) -> bool:
    """Whether a group leaves something to do that its own claim did not take."""
    if done.asked:
        return True
    if wanted is None or len(done.claimed) >= wanted.total:
        return bool(done.ready)
    claimed = Counter(run.handler for run in done.claimed)
    return any(claimed[handler] >= wanted.handlers.get(handler, 0) for handler in done.ready)
