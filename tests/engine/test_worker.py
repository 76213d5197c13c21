"""The life of a worker among others: declared dead, in doubt, at its end."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from everstep.core.batch import Batch, Mode, Unknown
from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.engine.engine import Engine
from everstep.engine.registry import Ended, Handler, Registry
from everstep.settings import Settings
from everstep.store.base import Claim, Committed, WorkerRef
from everstep.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


class Doubtful(SqliteStore):
    """A real store that once does not know what became of a group."""

    doubt = False

    async def commit(
        self, worker: WorkerRef | None, batches: Sequence[Batch], claim: Claim | None = None
    ) -> Committed:
        if self.doubt and any(batch.run for batch in batches):
            self.doubt = False
            return Committed([Unknown("the connection was lost")] * len(batches))
        return await super().commit(worker, batches, claim)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def store(tmp_path: Path) -> Doubtful:
    return Doubtful(f"sqlite:///{tmp_path}/runs.db")


@pytest.fixture
async def engine(store: Doubtful, registry: Registry) -> AsyncIterator[Engine]:
    yield (engine := Engine(store, registry, Settings(drain=0.2, lease=60.0)))
    await engine.stop()


async def test_a_worker_that_was_declared_dead_leaves_no_lock_behind(
    engine: Engine, store: Doubtful, tmp_path: Path
) -> None:
    """It comes back as somebody new, and what it was is forgotten."""
    await engine.start()
    [row] = await store.workers()
    await store.take_over(row)
    await engine.kv_set("g", "k", b"1")
    async with asyncio.timeout(10):
        while engine.worker.committer.worker is None:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.001)

    [after] = [row for row in await store.workers() if row.alive]
    assert after.id == engine.worker.committer.worker.id != row.id
    assert not (tmp_path / "runs.db.locks" / f"worker-{row.id}").exists()


async def test_a_run_whose_end_is_in_doubt_is_done_again_at_once(
    engine: Engine, store: Doubtful, registry: Registry
) -> None:
    """Its worker cannot know, so it enters anew; what it held is free without waiting for a lease."""
    calls = []

    async def once(attempt: Attempt) -> Ended:
        calls.append(attempt.number)
        store.doubt = len(calls) == 1
        return Ended()

    registry.add(Handler("once", Mode.RETRY, once))
    await engine.start()
    run = await engine.result((await engine.begin("once", b"null")).run.rid, timeout=10)

    assert run.state is Status.DONE
    assert calls == [1, 1]


async def test_rings_at_the_end_disturb_nobody(
    engine: Engine, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that closes its store looks into it no more, whoever rings."""
    await engine.start()
    worker = engine.worker
    stopping = asyncio.create_task(engine.stop())
    while not stopping.done():
        worker._rung()
        worker._fell_due()
        await asyncio.sleep(0)
    await stopping
    worker._rung()
    await asyncio.sleep(0)
    gc.collect()

    assert not caplog.records
    assert not recwarn.list
