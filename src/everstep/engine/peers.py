"""The other workers of a store: whom to ring, and from whom to take over.

A worker that died is known at once, by the lock it no longer holds.  One that
hangs is known by its counter: it stood still for a whole lease, judged on our
own clock only; no two clocks are ever compared.  Only time counts in which we
looked ourselves, and in which the store took writes: else what kept everybody
still would make each declare the others dead.

Floor 3.  May import: store.base, floor 0.  Imported by: engine.worker.
"""

from __future__ import annotations

import asyncio

from everstep.clock import Clock
from everstep.engine.doorbell import Doorbell
from everstep.log import Logger
from everstep.store.base import Store, WorkerRow

LOOK = 1.0  # seconds between looks of one's own accord
_SOON = 0.002  # seconds: one ring for all that became ready meanwhile
_log = Logger("everstep.worker")


class Peers:
    """What one worker knows of the others.  *lease* is in seconds."""

    def __init__(self, store: Store, clock: Clock, bell: Doorbell, lease: float) -> None:
        self._store = store
        self._clock = clock
        self._bell = bell
        self._lease = lease
        self._rows: list[WorkerRow] = []
        self._moved: dict[int, tuple[int, float]] = {}  # the counter of each, and when it moved
        self._looked = clock.monotonic()
        self._soon: asyncio.TimerHandle | None = None

    def begin_anew(self) -> None:
        """Nobody could raise a counter for a while: nobody is judged by that time."""
        self._moved.clear()

    async def observe(self, me: int) -> bool:
        """Look at all of them; True if runs were taken over from one that is dead or hangs."""
        self._rows = await self._store.workers()
        steady = self._clock.monotonic()
        if steady - self._looked > 2 * LOOK + self._lease / 2:
            self.begin_anew()  # it was us who stood still, and perhaps all the others with us
        self._looked = steady
        alive = [row for row in self._rows if row.alive and row.id != me]
        self._moved = {row.id: self._movement(row, steady) for row in alive}
        taken = False
        for row in alive:
            hangs = steady - self._moved[row.id][1] > self._lease
            if hangs or await self._store.dead(row):
                freed = await self._store.take_over(row)
                why = "stood still for a lease" if hangs else "is dead"
                _log.warning(f"worker {row.name} {why}", {"worker": row.id, "runs_taken_over": freed})
                taken = True
        return taken

    def _movement(self, row: WorkerRow, steady: float) -> tuple[int, float]:
        before = self._moved.get(row.id)
        return before if before is not None and before[0] == row.beat else (row.beat, steady)

    def ring_later(self) -> None:
        """Ring them all in a moment, once for all that became ready until then."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_SOON, self.ring)

    def ring(self) -> None:
        """Ring those seen last."""
        self._soon = None
        self._bell.ring(row.address for row in self._rows if row.alive)

    async def ring_all(self) -> None:
        """Ring every worker there is, also one that started a moment ago."""
        self._bell.ring(row.address for row in await self._store.workers() if row.alive)

    def close(self) -> None:
        """Ring no more."""
        if self._soon is not None:
            self._soon.cancel()
