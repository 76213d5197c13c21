"""What is read from a PostgreSQL store, on the connection that only reads.

Floor 2.  May import: core, store.base, floor 0.  Imported by: store.postgres.
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from everstep.core.batch import Run
from everstep.core.journal import Entry
from everstep.core.status import Status
from everstep.errors import StoreError
from everstep.store.base import KvRow, PromiseRow, Subscription, Unrouted, WorkerRef, WorkerRow
from everstep.store.postgres_group import SQL, fill
from everstep.store.postgres_link import Connection, Link
from everstep.store.rows import RUN, blob_of

_COLUMNS = ", ".join(f'"{column}"' for column in RUN)


class PostgresReads:
    """The reading half of `Store` (see `store.base` for what each method promises)."""

    _side: Link

    async def _fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        return await self._side.do(lambda db: db.fetch(sql, *arguments))

    async def _runs(self, sql: str, *arguments: object) -> list[Run]:
        async def read(db: Connection) -> list[Run]:
            runs = [Run(*row) for row in await db.fetch(sql, *arguments)]
            fill(runs, await self._blobs(db, [value for run in runs for value in (run.input, run.output)]))
            return runs

        return await self._side.do(read)

    async def _blobs(self, db: Connection, values: Sequence[bytes | None]) -> dict[str, bytes]:
        """The large values that kept values stand for."""
        named = {blob for value in values if (blob := blob_of(value)) is not None}
        return {row[0]: row[1] for row in await db.fetch(SQL["get_blobs"], list(named))} if named else {}

    async def workers(self) -> list[WorkerRow]:
        """Every worker row."""
        found = await self._fetch(SQL["workers"])
        return [
            WorkerRow(number, name, epoch, beat, address, tuple(handlers), alive)
            for number, name, epoch, beat, address, handlers, alive in found
        ]

    async def asked(self, worker: WorkerRef) -> list[Run]:
        """What was asked of this worker's runs."""
        return await self._runs(SQL["asked"], worker.id)

    async def next_due(self) -> int | None:
        """When the next run falls due."""
        [row] = await self._fetch(SQL["next_due"])
        due: int | None = row[0]
        return due

    async def run(self, rid: str) -> Run | None:
        """One run."""
        found = await self._runs(SQL["run_by_rid"], rid)
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
        where, arguments = ["true"], list[object]()

        def such(condition: str, value: object) -> None:
            arguments.append(value)
            where.append(condition.format(f"${len(arguments)}"))

        if handler is not None:
            such("handler = {}", handler)
        if statuses:
            such("status = ANY({}::smallint[])", [int(status) for status in statuses])
        if topics_only:
            where.append("topic IS NOT NULL AND topic NOT LIKE '% /%'")
        if before is not None:
            such("id < {}", before)
        arguments.append(limit)
        newest = f"ORDER BY id DESC LIMIT ${len(arguments)}"
        return await self._runs(
            f"SELECT {_COLUMNS} FROM run WHERE {' AND '.join(where)} {newest}", *arguments
        )

    async def counts(self) -> dict[tuple[str, int], int]:
        """Runs of each handler and status."""
        return {(row[0], Status(row[1])): row[2] for row in await self._fetch(SQL["counts"])}

    async def entries(self, run: int, generation: int) -> list[Entry]:
        """The journal."""

        async def read(db: Connection) -> list[Entry]:
            found = [Entry(*row) for row in await db.fetch(SQL["entries"], run, generation)]
            blobs = await self._blobs(db, [entry.value for entry in found])
            for entry in found if blobs else ():
                entry.value = blobs.get(blob_of(entry.value) or "", entry.value)
            return found

        return await self._side.do(read)

    async def promises(self, run: int) -> list[PromiseRow]:
        """Settled promises."""
        return [PromiseRow(*row) for row in await self._fetch(SQL["promises"], run)]

    async def kv_get(self, group: str, key: str) -> KvRow | None:
        """One value."""
        found = await self._fetch(SQL["kv_get"], group, key)
        return KvRow(*found[0]) if found else None

    async def kv_list(self, group: str) -> list[KvRow]:
        """A group."""
        return [KvRow(*row) for row in await self._fetch(SQL["kv_list"], group)]

    async def kv_groups(self) -> list[tuple[str, int]]:
        """All groups."""
        return [(row[0], row[1]) for row in await self._fetch(SQL["kv_groups"])]

    async def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""
        return [Subscription(*row) for row in await self._fetch(SQL["subscriptions"])]

    async def unrouted(self, limit: int = 50) -> list[Unrouted]:
        """Messages without a subscriber."""
        return [Unrouted(*row) for row in await self._fetch(SQL["unrouted"], limit)]

    async def get_blob(self, blob: str) -> bytes:
        """Read a large value back."""
        found = await self._fetch(SQL["get_blobs"], [blob])
        if not found:
            raise StoreError(f"the large value {blob} is gone from the store {self._side.place.shown}")
        data: bytes = found[0][1]
        return data
