"""Short words for the tests of stores: batches, entries, a clock that moves when told."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from everstep.core.batch import Applied, Batch, Begin, Change, Guard, Mode, Outcome, Publish, Run
from everstep.core.journal import OK, Entry
from everstep.store.base import Claim, Store, WorkerRef

SECOND = 1_000_000
HOUR = 3600 * SECOND
YEAR = 365 * 24 * HOUR

Execute = Callable[[str], Awaitable[list[tuple[Any, ...]]]]
MakeStore = Callable[[], Store]


class ManualClock:
    """Moves a microsecond whenever it is read, and further when told."""

    def __init__(self, now: int = 1_700_000_000 * SECOND) -> None:
        self.us = now

    def now_us(self) -> int:
        self.us += 1
        return self.us

    def monotonic(self) -> float:
        return self.us / SECOND

    def skip(self, us: int) -> None:
        self.us += us


def begin(rid: str, handler: str = "h", **options: Any) -> Batch:
    """A batch that begins one run."""
    facts: dict[str, Any] = {"mode": Mode.REPLAY, "input": b"1"} | options
    return Batch(changes=[Begin(rid, handler, **facts)])


def publish(mid: str, topic: str = "t", data: bytes = b"1", **options: Any) -> Batch:
    """A batch that publishes one message."""
    return Batch(changes=[Publish(mid, topic, data, **options)])


def speak(
    run: Run, *changes: Change, entries: Sequence[Entry] = (), guards: Sequence[Guard] = (), epoch: int = 0
) -> Batch:
    """A batch of a run's own turn."""
    return Batch(run.id, epoch or run.epoch, list(entries), list(changes), list(guards))


def outside(*changes: Change, guards: Sequence[Guard] = ()) -> Batch:
    """A batch of somebody else."""
    return Batch(changes=list(changes), guards=list(guards))


def entry(
    pos: int, value: bytes | None = b"1", *, seq: int | None = None, lane: str = "0", state: int = OK
) -> Entry:
    """One entry of a journal."""
    return Entry(lane, pos, "run", "charge", 7, seq, 5, state, value)


async def take(store: Store, worker: WorkerRef, total: int = 100, **handlers: int) -> list[Run]:
    """Claim what is ready, of the handler "h" if none is named."""
    return (await store.commit(worker, [], Claim(total, handlers or {"h": total}))).claimed


async def one(store: Store, batch: Batch, worker: WorkerRef | None = None) -> Outcome:
    """The outcome of one batch."""
    return (await store.commit(worker, [batch])).outcomes[0]


async def ok(store: Store, *batches: Batch, worker: WorkerRef | None = None) -> list[Any]:
    """Commit batches that must be applied; their results in one list."""
    outcomes = (await store.commit(worker, batches)).outcomes
    assert all(isinstance(outcome, Applied) for outcome in outcomes), outcomes
    return [result for outcome in outcomes if isinstance(outcome, Applied) for result in outcome.results]


async def known(store: Store, rid: str) -> Run:
    """A run that must be there."""
    run = await store.run(rid)
    assert run is not None, rid
    return run


async def statuses(store: Store, *rids: str) -> list[str]:
    """The statuses of some runs, as words."""
    return [(await known(store, rid)).state.label for rid in rids]
