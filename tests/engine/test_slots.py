"""What a worker has room for, and when."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from everstep.core.batch import Applied, Batch, Finish, Mode, Park, Run, Settle
from everstep.core.journal import OK
from everstep.core.status import Status
from everstep.engine import worker
from everstep.engine.engine import Engine
from everstep.engine.registry import Ended, Handler, Registry
from everstep.engine.slots import Slots
from everstep.settings import Settings
from everstep.store.base import Claim, Committed, Subscription, WorkerRef
from everstep.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


class Watched(SqliteStore):
    """A real store that keeps what was committed, and lets a test hold a group back."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.groups: list[tuple[list[Batch], Committed]] = []
        self.held: asyncio.Event | None = None  # the answers of claims wait for it
        self.gate: asyncio.Semaphore | None = None  # so many groups may pass

    async def commit(
        self, owner: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        if batches and self.gate is not None:
            await self.gate.acquire()
        done = await super().commit(owner, batches, claim)
        if not batches and self.held is not None:
            await self.held.wait()
        self.groups.append((list(batches), done))
        return done


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(f"sqlite:///{tmp_path}/runs.db")


@pytest.fixture
async def engine(store: Watched, registry: Registry) -> AsyncIterator[Engine]:
    yield (engine := Engine(store, registry, Settings(concurrency=2)))
    await engine.stop()


async def test_a_run_that_ends_makes_room_for_the_next_in_the_same_commit(
    engine: Engine, registry: Registry, store: Watched
) -> None:
    """A backlog is worked off with one commit for as many runs as there are slots, not two."""

    async def nothing(attempt: Any) -> Ended:
        return Ended()

    registry.add(Handler("step", Mode.RETRY, nothing, subscriptions=(Subscription("t", "step"),)))
    await engine.start(work=False)
    for _ in range(6):
        await engine.publish("t", b"1")
    await engine.stop()
    await engine.start()
    for run in await store.runs():
        await engine.result(run.rid, timeout=10)

    ends = [(batches, done) for batches, done in store.groups if _ends(batches)]
    assert [len(done.claimed) for _, done in ends] == [2, 2, 0]


def _parks(batch: Batch) -> bool:
    return any(isinstance(change, Park) for change in batch.changes)


def _ends(batches: Sequence[Batch]) -> bool:
    return any(isinstance(change, Finish) for batch in batches for change in batch.changes)


async def test_a_run_woken_in_the_group_it_parks_in_is_still_reached(
    engine: Engine, registry: Registry, store: Watched
) -> None:
    """Parked, woken and claimed again by one commit, a run can be cancelled like any other."""
    began, go = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        began.set()
        await go.wait()

    async def body(ctx: Any, given: Any) -> None:
        await ctx.promise("go")
        await ctx.run(slow)
        await ctx.run(slow)

    registry.add(Handler("body", Mode.REPLAY, body, timeout=None))
    await engine.start()
    gate = store.gate = asyncio.Semaphore(0)
    beginning = asyncio.create_task(engine.begin("body", b"null"))
    await asyncio.sleep(0.01)
    behind = asyncio.create_task(engine.kv_set("g", "k", b"1"))
    await asyncio.sleep(0.01)
    gate.release()
    run = (await beginning).run
    committer = engine.worker.committer
    while not any(_parks(batch) for batch, _ in committer._pending):  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0)
    settled = asyncio.create_task(committer.commit(Batch(changes=[Settle(run.rid, "go", OK, b"1")])))
    await asyncio.sleep(0)
    engine.worker._rung()  # the look it takes each second happens to come now
    store.gate = None
    gate.release()
    await behind
    assert isinstance(await settled, Applied)
    await began.wait()
    await engine.control(run.rid, "cancel")
    await asyncio.sleep(0.05)
    go.set()
    ended = await engine.result(run.rid, timeout=10)

    assert Status(ended.status) is Status.CANCELLED


async def test_a_ring_during_a_claim_is_not_forgotten(
    engine: Engine, registry: Registry, store: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of another process, sent between our claim and its answer, is claimed at once."""
    monkeypatch.setattr(worker, "LOOK", 60.0)

    async def nothing(attempt: Any) -> Ended:
        return Ended()

    registry.add(Handler("step", Mode.RETRY, nothing, subscriptions=(Subscription("t", "step"),)))
    await engine.start()
    await asyncio.sleep(0.05)
    other = Engine(SqliteStore(store.url), Registry(), Settings())
    await other.start(work=False)
    store.held = asyncio.Event()
    engine.worker._rung()
    await asyncio.sleep(0.05)
    sent = await other.publish("t", b"1")
    await asyncio.sleep(0.05)
    store.held.set()
    ended = await engine.result(f"r_{sent.mid[2:]}", timeout=10)
    await other.stop()

    assert Status(ended.status) is Status.DONE


def test_a_slot_is_left_once() -> None:
    """Leaving twice, or with the epoch of another claim, makes no room that is not there."""
    slots = Slots(2, _registry(concurrency=1))
    slots.take(_run(epoch=1))
    slots.leave(1, 1)
    slots.take(_run(epoch=2))

    slots.leave(1, 1)

    assert slots.free == 1
    assert slots.room("step") == 0
    assert slots.room("unknown") == 0


def _registry(concurrency: int) -> Registry:
    async def nothing(attempt: Any) -> Ended:
        return Ended()

    registry = Registry()
    registry.add(Handler("step", Mode.RETRY, nothing, concurrency=concurrency))
    return registry


def _run(epoch: int) -> Run:
    return Run(1, "r_1", "step", Mode.RETRY, Status.RUNNING, b"", 0, epoch=epoch)
