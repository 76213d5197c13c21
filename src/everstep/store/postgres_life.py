"""The life-line to PostgreSQL: locks that die with this process, and a door to knock at.

A worker holds a session's advisory lock: when its connection is gone the lock
is free, and others know at once.  When the connection is lost although the
process lives, the locks are taken again; if somebody was faster, this worker
was declared dead and hears so with its next commit.

Floor 2.  May import: store.postgres_link, floor 0.  Imported by: store.postgres.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

from everstep.errors import StoreUnavailable
from everstep.log import Logger
from everstep.store.postgres_link import Connection, Link, Lost, in_our_words

_log = Logger("everstep.store")


class Lifeline:
    """Holds the locks of this process's workers, and listens."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._locks: set[int] = set()
        self._heard: Callable[[], None] | None = None
        self._token = ""
        self._watched: Connection | None = None
        self._revival: asyncio.Task[None] | None = None
        self._closing = False

    async def hold(self, lock: int) -> None:
        """Hold a lock until `free`, or until this process ends."""
        await self._link.do(lambda db: self._take(db, lock))
        self._locks.add(lock)

    async def _take(self, db: Connection, lock: int) -> None:
        self._watch(db)
        # One that looks whether we are dead holds it for a moment: wait for that.
        await db.execute("SELECT pg_advisory_lock($1)", lock)

    async def free(self, lock: int) -> None:
        """Let a lock go."""
        self._locks.discard(lock)
        await self._link.do(lambda db: db.execute("SELECT pg_advisory_unlock($1)", lock))

    async def listen(self, heard: Callable[[], None], token: str) -> None:
        """Call *heard* whenever another process says that there is work."""
        self._heard, self._token = heard, token
        await self._link.do(self._listen)

    async def _listen(self, db: Connection) -> None:
        self._watch(db)
        await db.add_listener(self._link.place.channel, self._notified)

    def _notified(self, db: Any, pid: int, channel: str, payload: object) -> None:
        if payload != self._token and self._heard is not None:
            self._heard()

    # ---- after a loss

    def _watch(self, db: Connection) -> None:
        if db is not self._watched:
            self._watched = db
            db.add_termination_listener(self._gone)

    def _gone(self, db: Any) -> None:
        if self._closing or (self._revival is not None and not self._revival.done()):
            return
        self._revival = asyncio.get_running_loop().create_task(self._revive(), name="everstep-lifeline")

    async def _revive(self) -> None:
        pause = 0.05
        while not self._closing:
            try:
                async with self._link.lock:
                    self._link.drop()
                    db = await self._link.get()
                    with in_our_words(self._link.place, db):
                        for lock in list(self._locks):
                            await self._take(db, lock)
                        if self._heard is not None:
                            await self._listen(db)
            except (StoreUnavailable, Lost, asyncpg.PostgresError) as error:
                _log.warning("the life-line to the store is cut", {"error": str(error)})
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
            else:
                if self._heard is not None:
                    self._heard()  # what was said meanwhile was not heard
                return

    async def close(self) -> None:
        """Free everything."""
        self._closing = True
        if self._revival is not None:
            self._revival.cancel()
            await asyncio.gather(self._revival, return_exceptions=True)
        await self._link.close()
