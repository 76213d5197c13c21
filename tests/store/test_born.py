"""Messages that are claimed by the commit that publishes them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from everstep.core.batch import Applied, Batch, Finish, Publish
from everstep.core.status import Status
from everstep.store.base import Claim, Subscription, WorkerRef
from everstep.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(f"sqlite:///{tmp_path}/runs.db")
    await store.open()
    yield store
    repairs, _ = await store.sweep(10**15)
    await store.close()

    assert repairs == 0


async def worker_of(store: SqliteStore) -> WorkerRef:
    subscriptions = [Subscription("orders", "Pack"), Subscription("letters", "Send", fifo=True)]
    worker = await store.register("w", "", ["Pack", "Send"])
    await store.subscribe(subscriptions, ["Pack", "Send"])
    return worker


def message(number: int, *, priority: int = 0) -> Batch:
    return Batch(changes=[Publish(f"m_{number}", "orders", b"%d" % number, priority=priority)])


async def test_a_message_is_claimed_by_the_commit_that_publishes_it(store: SqliteStore) -> None:
    """With room and nobody before it, no second commit is needed; the row says so."""
    worker = await worker_of(store)

    done = await store.commit(worker, [message(1), message(2)], Claim(10, {"Pack": 10}))
    row = await store.run("r_1")

    assert [run.rid for run in done.claimed] == ["r_1", "r_2"]
    assert done.ready == set()
    assert row is not None
    assert (row.status, row.worker, row.epoch, row.claims) == (Status.RUNNING, worker.id, 1, 1)


async def test_those_who_waited_longer_go_first(store: SqliteStore) -> None:
    """A new message does not overtake one that is ready already."""
    worker = await worker_of(store)
    await store.commit(worker, [message(1)])

    done = await store.commit(worker, [message(2)], Claim(1, {"Pack": 1}))

    assert [run.rid for run in done.claimed] == ["r_1"]
    assert done.ready == {"Pack"}


async def test_no_more_are_claimed_than_there_is_room_for(store: SqliteStore) -> None:
    """The most urgent first; the others stay ready, and are said to be."""
    worker = await worker_of(store)
    batches = [message(1), message(2, priority=5), message(3)]

    done = await store.commit(worker, batches, Claim(2, {"Pack": 2}))

    assert [run.rid for run in done.claimed] == ["r_2", "r_1"]
    assert done.ready == {"Pack"}


async def test_of_a_group_only_the_head_is_claimed(store: SqliteStore) -> None:
    """FIFO holds inside one commit; the next follows when the head has ended."""
    worker = await worker_of(store)
    batches = [Batch(changes=[Publish(f"m_{n}", "letters", b"1", group="a")]) for n in (1, 2)]

    first = await store.commit(worker, batches, Claim(10, {"Send": 10}))
    head = first.claimed[0]
    end = Batch(run=head.id, epoch=head.epoch, changes=[Finish("finish")])
    second = await store.commit(worker, [end], Claim(10, {"Send": 10}))

    assert [run.rid for run in first.claimed] == ["r_1"]
    assert isinstance(second.outcomes[0], Applied)
    assert [run.rid for run in second.claimed] == ["r_2"]
