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
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from everstep.core.batch import Batch, Begin, Change, Finish, Outcome, Publish, Refused
from everstep.errors import Fenced, StoreUnavailable
from everstep.log import Logger
from everstep.store.base import BLOB, Claim, Committed, Store, WorkerRef

GROUP_BYTES = 1 << 20
BLOB_BYTES = 64 << 10
PARTING = 10.0  # seconds for the last commits
PATIENCE = 2.0  # seconds a batch that speaks for no run waits for a store that is away
Done = Callable[[Outcome], None]
Item = tuple[Batch, Done]
T = TypeVar("T")
_log = Logger("everstep.commit")


class Owner(Protocol):
    """Whose committer this is: says what to claim, hears what was done."""

    def wanted(self, batches: Sequence[Batch]) -> Claim | None:
        """What may be claimed with a group of these batches."""

    def committed(self, done: Committed, wanted: Claim | None) -> None:
        """A group is durable."""

    @property
    def lost(self) -> str:
        """Why the store takes no writes, as far as the owner knows; empty when it does."""

    def poisoned(self, batch: Batch, error: Exception) -> None:
        """A batch cannot be written, whatever is done; the others of its group were."""

    def store_lost(self, error: StoreUnavailable) -> None:
        """The store takes no writes now."""

    def store_back(self) -> None:
        """It does again."""


class Committer:
    """The one way to write: `submit` with a callback, or `commit` and await."""

    def __init__(self, store: Store, owner: Owner) -> None:
        self._store = store
        self._owner = owner
        self._pending: deque[Item] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._away: StoreUnavailable | None = None  # for so long that nobody outside is let wait
        self._patience: asyncio.TimerHandle | None = None
        self.worker: WorkerRef | None = None
        self.heard: Callable[[Batch, Outcome], None] = lambda batch, outcome: None  # what became of each

    def start(self) -> None:
        """Begin to commit what is submitted."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="everstep-committer")

    async def stop(self) -> None:
        """Commit what was submitted so far, then end; a store that does not answer is not waited for."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=PARTING)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.store_back()

    def submit(self, batch: Batch, done: Done) -> None:
        """Commit soon; *done* hears the outcome on the event loop, in the order of submission."""
        if self._closing and (self._task is None or self._task.done()):
            raise Fenced("this process has stopped committing")
        if self._away is not None and not batch.run:
            asyncio.get_running_loop().call_soon(done, Refused("unavailable", self._away))
            return
        self._pending.append((batch, done))
        self._wake.set()

    async def commit(self, batch: Batch, landed: Done | None = None) -> Outcome:
        """
        Commit and wait for the outcome.

        Args:
            landed: Hears it as well, even if whoever waits was cancelled meanwhile.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def heard(outcome: Outcome) -> None:
            if landed is not None:
                landed(outcome)
            if not future.done():
                future.set_result(outcome)

        self.submit(batch, heard)
        return await future

    def kick(self) -> None:
        """Look for work to claim, even if there is nothing to write."""
        self._wake.set()

    # ---- while the store is away

    def store_lost(self, error: StoreUnavailable) -> None:
        """The store takes no writes: whoever waits outside is turned away after a while."""
        if self._patience is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(PATIENCE, self._out_of_patience, error)
            # Who found out may not have been us: then we have nothing to try it with.
            loop.call_later(0.5, self.kick)

    def store_back(self) -> None:
        """It does again."""
        self._away = None
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _out_of_patience(self, error: StoreUnavailable) -> None:
        self._away = error
        _turn_away(self._pending, error)

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
            if group or wanted is not None:
                await self._send(group, wanted)
            elif self._owner.lost and not self._closing:
                await self._look()

    async def _look(self) -> None:
        """There is nothing to write: ask whether the store takes writes again."""
        worker = self.worker
        if worker is None:
            return  # who enters anew asks by doing so
        try:
            await self._patiently(lambda: self._store.beat(worker), [])
        except Exception as error:
            _log.error("looking for the store failed", {"error": repr(error)})

    def _take(self) -> list[Item]:
        pending = self._pending
        group: list[Item] = []
        size = 0
        while pending and size < GROUP_BYTES:
            item = pending.popleft()
            size += item[0].size
            group.append(item)
        return group

    async def _send(self, group: list[Item], wanted: Claim | None) -> None:
        async def write() -> Committed:
            nonlocal wanted
            claim, wanted = wanted, None  # once: a store that comes back late finds other slots free
            done = await self._store.commit(self.worker, [batch for batch, _ in group], claim)
            wanted = claim
            return done

        try:
            for batch, _ in [*group]:
                if batch.size > BLOB_BYTES:
                    await self._outside(batch, group)
            done = await self._patiently(write, group)
        except Exception as error:
            await self._halve(group, error)
            return
        self._tell(group, done, wanted)

    def _tell(self, group: Sequence[Item], done: Committed, wanted: Claim | None) -> None:
        fenced = done.outcomes and getattr(done.outcomes[0], "why", "") == "worker_epoch"
        for (batch, heard), outcome in zip(group, done.outcomes, strict=True):
            if fenced and not batch.run:
                # Asked by somebody outside, who does not care which worker we are.
                self._pending.append((batch, heard))
                self._wake.set()
                continue
            try:
                heard(outcome)
                self.heard(batch, outcome)
            except Exception:  # one of them must not silence all others for ever
                _log.exception("what was told of a commit failed", {"run": batch.run})
        self._owner.committed(done, wanted)

    async def _patiently(self, write: Callable[[], Awaitable[T]], group: list[Item]) -> T:
        """
        Try until the store takes writes; batches in the order given, so nothing overtakes.

        What speaks for no run has somebody outside waiting for it, and is
        turned away after a while; it leaves the group.
        """
        pause = 0.05
        while True:
            try:
                done = await write()
            except StoreUnavailable as error:
                if self._closing:
                    raise
                self._owner.store_lost(error)
                if self._away is not None:
                    _turn_away(group, self._away)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                if self._owner.lost:
                    self._owner.store_back()
                return done

    async def _halve(self, group: list[Item], error: Exception) -> None:
        """Find the batch that cannot be written, so that its neighbours are."""
        if len(group) > 1:
            middle = len(group) // 2
            await self._send(group[:middle], None)
            await self._send(group[middle:], None)
        elif group:
            batch, heard = group[0]
            if not isinstance(error, StoreUnavailable):
                _log.error("a batch cannot be written", {"run": batch.run, "error": repr(error)})
                self._owner.poisoned(batch, error)
            heard(Refused("poison", error))
        else:
            _log.error("claiming failed", {"error": repr(error)})
            await asyncio.sleep(0.5)
            self._wake.set()

    # ---- large values travel before and outside the commit

    async def _outside(self, batch: Batch, group: list[Item]) -> None:
        # Copies: whoever made the batch goes on with the values themselves.
        owner = f"run:{batch.run}"
        for number, entry in enumerate(batch.entries):
            if _large(entry.value):
                value = await self._blob(group, owner, entry.value)
                batch.entries = [*batch.entries]
                batch.entries[number] = replace(entry, value=value)
        batch.changes = [await self._change_outside(change, owner, group) for change in batch.changes]

    async def _change_outside(self, change: Change, owner: str, group: list[Item]) -> Change:
        match change:
            case Begin() if _large(change.input):
                return replace(change, input=await self._blob(group, f"rid:{change.rid}", change.input))
            case Publish() if _large(change.data):
                return replace(change, data=await self._blob(group, f"mid:{change.mid}", change.data))
            case Finish() if _large(change.output):
                return replace(change, output=await self._blob(group, owner, change.output))
        return change

    async def _blob(self, group: list[Item], owner: str, value: bytes | None) -> bytes:
        assert value is not None
        data = value
        return BLOB + (await self._patiently(lambda: self._store.put_blob(owner, data), group)).encode()


def _large(value: bytes | None) -> bool:
    return value is not None and len(value) > BLOB_BYTES


def _turn_away(items: list[Item] | deque[Item], error: StoreUnavailable) -> None:
    """Refuse what speaks for no run; the others stay, in their order."""
    waiting = [item for item in items if not item[0].run]
    kept = [item for item in items if item[0].run]
    items.clear()
    items.extend(kept)
    for _, heard in waiting:
        heard(Refused("unavailable", error))
