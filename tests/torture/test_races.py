"""Races that a random schedule found, each told once, slowly and on purpose."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everstep.core.batch import Applied, Asked, Batch, Begin, Control, Mode, Park, Run
from everstep.core.status import Status
from everstep.store.base import Claim, WorkerRef
from everstep.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    yield store
    await store.close()


async def running(store: SqliteStore, worker: WorkerRef) -> Run:
    await store.commit(None, [Batch(changes=[Begin("r_1", "h", Mode.REPLAY, b"1")])])
    (run,) = (await store.commit(worker, [], Claim(1, {"h": 1}))).claimed
    return run


@pytest.mark.parametrize(
    ("action", "status", "asked"),
    [("cancel", Status.READY, Asked.CANCEL), ("pause", Status.PAUSED, Asked.NOTHING)],
)
async def test_a_run_that_is_asked_something_does_not_park(
    store: SqliteStore, action: str, status: Status, asked: Asked
) -> None:
    """
    A turn that goes to rest just when it is asked to end is claimed again, or paused; never parked.

    Its park was refused, because the asking had woken it, and parked in the
    next commit, before its worker had read what was asked.
    """
    worker = await store.register("w", "", ["h"])
    run = await running(store, worker)
    await store.commit(worker, [Batch(changes=[Control("r_1", action)])])

    done = await store.commit(worker, [Batch(run.id, run.epoch, changes=[Park(run.wakes + 1)])])

    assert isinstance(done.outcomes[0], Applied)
    after = await store.run("r_1")
    assert after is not None
    assert (after.state, after.asked, after.worker) == (status, asked, None)
