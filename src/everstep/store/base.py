"""The contract of a store, and the values that cross it.

A store keeps runs, journals, promises, state, subscriptions and workers, and
changes them only through `commit`: one group of batches, one transaction, one
outcome for each batch (`core.decide` says which).  Everything else here reads,
or speaks about workers.  Every promise of this page is a test in
`tests/store/contract.py`, which each store inherits.

Floor 2.  May import: core, floor 0.  Imported by: engine, steps, http, app.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from everstep.core.batch import Batch, Outcome, Run
from everstep.core.journal import Entry

SCHEMA = 1  # raised by every migration
BLOB = b"\x01"  # a kept value that starts so is the id of a large one, kept elsewhere


@dataclass(slots=True)
class WorkerRef:
    """Who commits: its row, the epoch it was given, and the number of its last commit."""

    id: int
    epoch: int
    name: str = ""
    commits: int = 0


@dataclass(slots=True)
class Claim:
    """How many ready runs a worker has room for: in all, and of each handler."""

    total: int
    handlers: Mapping[str, int]


@dataclass(slots=True)
class Committed:
    """What a group did: an outcome a batch, the runs claimed, and whom to ring for."""

    outcomes: list[Outcome]
    claimed: list[Run] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)  # handlers that may have ready runs now
    ended: list[Run] = field(default_factory=list)  # runs that ended in this group
    asked: list[int] = field(default_factory=list)  # running runs that were asked something
    due: int | None = None  # the earliest time among the runs this group scheduled or parked


@dataclass(slots=True, frozen=True)
class Subscription:
    """Who gets a copy of a message on a topic.  `delay` in microseconds."""

    topic: str
    handler: str
    fifo: bool = False
    delay: int = 0


@dataclass(slots=True, frozen=True)
class WorkerRow:
    """Another process as its row shows it.  `address` is where its doorbell hangs."""

    id: int
    name: str
    epoch: int
    beat: int
    address: str
    handlers: tuple[str, ...]
    alive: bool


@dataclass(slots=True, frozen=True)
class KvRow:
    """One value of state."""

    group: str
    key: str
    value: bytes
    version: int


@dataclass(slots=True, frozen=True)
class PromiseRow:
    """One settled promise of a run."""

    name: str
    state: int
    value: bytes
    by: str
    at: int


@dataclass(slots=True, frozen=True)
class Unrouted:
    """A message nobody subscribed to."""

    mid: str
    topic: str
    data: bytes
    at: int


class Store(Protocol):
    """
    Where everything that must survive is kept.

    A store that hears of work in processes elsewhere may offer `async listen(heard)`
    beside this; `heard` is called without arguments on the event loop.

    All methods may be called from one event loop only.  Those that write raise
    `StoreUnavailable` when the store cannot take writes now (full disk, lost
    server) and nothing was changed; the caller may try the same again.
    """

    url: str

    async def open(self) -> None:
        """
        Connect, create the schema in an empty store, refuse what is not ours.

        Raises:
            NotAStore: The file or database holds something else.
            SchemaTooNew: It was written by a newer everstep.
            StoreUnavailable: It cannot be reached or read.
        """

    async def close(self) -> None:
        """Release connections, threads and this process's worker lock."""

    async def commit(
        self, worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        """
        Apply a group in one transaction, then claim ready runs in the same one.

        Batches are decided in the order given; a refused one leaves no trace
        and does not touch its neighbours.  With a *worker* whose epoch was
        raised by somebody else, every batch is refused (``worker_epoch``) and
        nothing is claimed.  Runs that have become due are made ready first,
        at most 1,000 at a time (then the handlers are reported in `ready` again).
        Of the ready runs the most urgent are claimed, of those the oldest, over
        all handlers that have room.  A run that was claimed five times without
        a new entry is set aside as ``needs_attention`` instead of being handed
        out once more.

        An exception means that nothing of the group was written.
        """

    def now(self) -> int:
        """The store's clock, in microseconds; never goes backwards for one process."""

    # ---- workers

    async def register(self, name: str, address: str, handlers: Sequence[str]) -> WorkerRef:
        """Enter this process as a worker, holding a lock that dies with it."""

    async def subscribe(self, subscriptions: Sequence[Subscription], handlers: Sequence[str]) -> None:
        """
        Make these the subscriptions of the given *handlers*, for every process from now on.

        Subscriptions of other handlers (other releases, other programs) stay.
        Unrouted messages of a topic that has a subscriber now become runs.
        """

    async def beat(self, worker: WorkerRef) -> bool:
        """Raise the worker's counter; False when it was declared dead meanwhile."""

    async def workers(self) -> list[WorkerRow]:
        """Every worker known, alive or not."""

    async def dead(self, worker: WorkerRow) -> bool:
        """True when the lock of that worker is free, so that it is dead for certain."""

    async def take_over(self, worker: WorkerRow) -> int:
        """
        Declare a worker dead and make its runs ready; return how many there were.

        Guarded by the epoch seen: of several that try, one succeeds (others return 0).
        """

    async def retire(self, worker: WorkerRef) -> None:
        """Leave: release what is still held, free the lock, forget the row."""

    async def asked(self, worker: WorkerRef) -> list[Run]:
        """Runs of this worker that somebody wants cancelled or paused."""

    async def next_due(self) -> int | None:
        """When the next scheduled or parked run falls due, in microseconds."""

    async def sweep(self, keep: int) -> tuple[int, int]:
        """
        Assert what must always hold and repair what does not; forget what is old.

        A parked run whose wait is true is made ready; a key without a head gets
        one.  Ended runs that finished more than *keep* microseconds ago are
        deleted, a few hundred at a time.  Returns (repairs, deleted); repairs
        other than 0 are a defect of everstep, and logged as one.
        """

    # ---- reading

    async def run(self, rid: str) -> Run | None:
        """One run by its public id."""

    async def runs(
        self,
        *,
        handler: str | None = None,
        statuses: Sequence[int] = (),
        topics_only: bool = False,
        before: int | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """Runs, newest first; `before` is the row id of the last one seen."""

    async def counts(self) -> dict[tuple[str, int], int]:
        """How many runs there are of each (handler, status)."""

    async def entries(self, run: int, generation: int) -> list[Entry]:
        """The journal of a run: those with a seq first, in its order; then the others."""

    async def promises(self, run: int) -> list[PromiseRow]:
        """The settled promises of a run."""

    async def kv_get(self, group: str, key: str) -> KvRow | None:
        """One value of state."""

    async def kv_list(self, group: str) -> list[KvRow]:
        """All of a group, by key."""

    async def kv_groups(self) -> list[tuple[str, int]]:
        """Every group and how many keys it has."""

    async def subscriptions(self) -> list[Subscription]:
        """All of them."""

    async def unrouted(self, limit: int = 50) -> list[Unrouted]:
        """Messages nobody subscribed to, newest first."""

    # ---- large values

    async def put_blob(self, owner: str, data: bytes) -> str:
        """
        Keep a large value outside the commit; it goes when its owner goes.

        *owner* is ``"rid:..."`` (a run's public id), ``"run:..."`` (its row id) or
        ``"mid:..."`` (a message, which is there while one of its runs is, or while
        it is unrouted).  One whose owner never came goes after a day.
        """

    async def get_blob(self, blob: str) -> bytes:
        """Read it back."""
