"""Group commit: all batches that arrive while a transaction is in flight travel together in the next.

Nobody in the engine writes row by row.  A group keeps the order in which its
batches came, is capped in size, and mixes no fates: each batch hears its own
outcome.  A group that fails for a reason of its own is halved until the
poison batch is alone; the others go through.  While the store takes no writes
the group waits and is tried again; user code sees nothing of it.

Floor 3.  May import: store.base, core, floor 0.  Imported by: engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from everstep.core.batch import Batch, Begin, Change, Finish, Outcome, Publish, Refused
from everstep.errors import Fenced, StoreUnavailable
from everstep.log import Logger
from everstep.store.base import BLOB, Claim, Committed, Store, WorkerRef

GROUP_BYTES = 1 << 20
BLOB_BYTES = 64 << 10
Done = Callable[[Outcome], None]
_log = Logger("everstep.commit")


class Owner(Protocol):
    """Whose committer this is: says what to claim, hears what was done."""

    def wanted(self, batches: Sequence[Batch]) -> Claim | None:
        """What may be claimed with a group of these batches."""

    def committed(self, done: Committed, wanted: Claim | None) -> None:
        """A group is durable."""

    def store_lost(self, error: StoreUnavailable) -> None:
        """The store takes no writes now."""

    def store_back(self) -> None:
        """It does again."""


class Committer:
    """The one way to write: `submit` with a callback, or `commit` and await."""

    def __init__(self, store: Store, owner: Owner) -> None:
        self._store = store
        self._owner = owner
        self._pending: deque[tuple[Batch, Done]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.worker: WorkerRef | None = None

    def start(self) -> None:
        """Begin to commit what is submitted."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="everstep-committer")

    async def stop(self) -> None:
        """Commit what was submitted so far, then end."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def submit(self, batch: Batch, done: Done) -> None:
        """Commit soon; *done* hears the outcome on the event loop, in the order of submission."""
        if self._closing and (self._task is None or self._task.done()):
            raise Fenced("this process has stopped committing")
        self._pending.append((batch, done))
        self._wake.set()

    async def commit(self, batch: Batch) -> Outcome:
        """Commit and wait for the outcome."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.submit(batch, lambda outcome: None if future.done() else future.set_result(outcome))
        return await future

    def kick(self) -> None:
        """Look for work to claim, even if there is nothing to write."""
        self._wake.set()

    # ---- the loop

    async def _work(self) -> None:
        while True:
            if not self._pending:
                if self._closing:
                    return
                await self._wake.wait()
            self._wake.clear()
            group = self._take()
            wanted = None if self._closing else self._owner.wanted([batch for batch, _ in group])
            if not group and wanted is None:
                continue
            await self._send(group, wanted)

    def _take(self) -> list[tuple[Batch, Done]]:
        pending = self._pending
        group: list[tuple[Batch, Done]] = []
        size = 0
        while pending and size < GROUP_BYTES:
            item = pending.popleft()
            size += item[0].size
            group.append(item)
        return group

    async def _send(self, group: Sequence[tuple[Batch, Done]], wanted: Claim | None) -> None:
        batches = [batch for batch, _ in group]
        try:
            for batch in batches:
                if batch.size > BLOB_BYTES:
                    await self._outside(batch)
            done = await self._patiently(batches, wanted)
        except Exception as error:
            await self._halve(group, error)
            return
        self._tell(group, done, wanted)

    def _tell(self, group: Sequence[tuple[Batch, Done]], done: Committed, wanted: Claim | None) -> None:
        for (_, heard), outcome in zip(group, done.outcomes, strict=True):
            heard(outcome)
        self._owner.committed(done, wanted)

    async def _patiently(self, batches: Sequence[Batch], wanted: Claim | None) -> Committed:
        """Try until the store takes writes; batches in the order given, so nothing overtakes."""
        pause = 0.05
        while True:
            try:
                done = await self._store.commit(self.worker, batches, wanted)
            except StoreUnavailable as error:
                if self._closing:
                    raise
                self._owner.store_lost(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
                wanted = None  # claim again when it is back and somebody asks
            else:
                if pause > 0.05:
                    self._owner.store_back()
                return done

    async def _halve(self, group: Sequence[tuple[Batch, Done]], error: Exception) -> None:
        """Find the batch that cannot be written, so that its neighbours are."""
        if len(group) > 1:
            middle = len(group) // 2
            await self._send(group[:middle], None)
            await self._send(group[middle:], None)
        elif group:
            batch, heard = group[0]
            _log.error("a batch cannot be written", {"run": batch.run, "error": repr(error)})
            heard(Refused("poison", error))
        else:
            _log.error("claiming failed", {"error": repr(error)})
            await asyncio.sleep(0.5)
            self._wake.set()

    # ---- large values travel before and outside the commit

    async def _outside(self, batch: Batch) -> None:
        # Copies: whoever made the batch goes on with the values themselves.
        owner = f"run:{batch.run}"
        batch.entries = [
            replace(entry, value=await self._blob(owner, entry.value)) if _large(entry.value) else entry
            for entry in batch.entries
        ]
        batch.changes = [await self._change_outside(change, owner) for change in batch.changes]

    async def _change_outside(self, change: Change, owner: str) -> Change:
        match change:
            case Begin() if _large(change.input):
                return replace(change, input=await self._blob(f"rid:{change.rid}", change.input))
            case Publish() if _large(change.data):
                return replace(change, data=await self._blob(f"mid:{change.mid}", change.data))
            case Finish() if _large(change.output):
                return replace(change, output=await self._blob(owner, change.output))
        return change

    async def _blob(self, owner: str, value: bytes | None) -> bytes:
        assert value is not None
        while True:
            try:
                return BLOB + (await self._store.put_blob(owner, value)).encode()
            except StoreUnavailable as error:
                if self._closing:
                    raise
                self._owner.store_lost(error)
                await asyncio.sleep(0.5)


def _large(value: bytes | None) -> bool:
    return value is not None and len(value) > BLOB_BYTES
