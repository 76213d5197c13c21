"""Promises of every store: who gets which ready run, and how workers come and go."""

import asyncio
import os

from everstep.core.batch import Batch, Control, Finish
from everstep.core.status import Status
from everstep.store.base import Claim, Store, WorkerRef, WorkerRow
from tests.store.making import MakeStore, begin, entry, known, ok, outside, speak, statuses, take


async def row_of(store: Store, worker: WorkerRef) -> WorkerRow:
    return next(row for row in await store.workers() if row.id == worker.id)


class ClaimsContract:
    async def test_the_most_urgent_then_the_oldest_goes_first(self, store: Store, worker: WorkerRef) -> None:
        """Over all handlers there is room for, so that a busy one does not keep the others waiting."""
        await ok(store, *(begin(f"a{n}") for n in range(3)), begin("b0", "h2"), begin("a3", priority=1))
        await ok(store, begin("b1", "h2", priority=2), begin("b2", "h2", priority=-1))
        order = []
        for _ in range(7):
            order += [run.rid for run in await take(store, worker, 1, h=9, h2=9)]

        assert order == ["b1", "a3", "a0", "a1", "a2", "b0", "b2"]

    async def test_no_more_is_claimed_than_there_is_room(self, store: Store, worker: WorkerRef) -> None:
        """The room in all and the room of each handler both hold; handlers not named get nothing."""
        for handler in ("h", "h2", "h3"):
            await ok(store, *(begin(f"{handler}-{n}", handler) for n in range(5)))
        claimed = await take(store, worker, 6, h=2, h2=9)
        assert sorted(run.handler for run in claimed) == ["h"] * 2 + ["h2"] * 4
        assert await take(store, worker, 0, h=2) == []
        assert await take(store, worker, 5, h=0) == []
        assert await take(store, worker, 5, nobody=5) == []

        assert (await store.counts())["h3", Status.READY] == 5

    async def test_what_a_group_makes_ready_it_can_claim(self, store: Store, worker: WorkerRef) -> None:
        """Begin, end and claim travel in one commit: a queue runs with one commit a lifecycle."""
        await ok(store, begin("a", key="k", claim=True), worker=worker)
        batches = [speak(await known(store, "a"), Finish("finish")), begin("b", key="k"), begin("c")]
        done = await store.commit(worker, batches, Claim(5, {"h": 5}))

        assert [run.rid for run in done.claimed] == ["b", "c"]
        assert all(run.input == b"1" and run.worker == worker.id for run in done.claimed)
        assert await statuses(store, "b", "c") == ["running", "running"]

    async def test_a_claim_is_what_its_row_says(self, store: Store, worker: WorkerRef) -> None:
        """The run handed out equals the run that is kept."""
        await ok(store, begin("a", key="k", priority=2, topic="t", trace="x"))
        [run] = await take(store, worker)

        assert run == await known(store, "a")

    async def test_a_run_is_never_claimed_twice(self, store: Store, other: Store, worker: WorkerRef) -> None:
        """Two workers that claim at once share the ready runs."""
        theirs = await other.register("w2", "", ["h"])
        await ok(store, *(begin(f"a{n}") for n in range(200)))
        seen: list[str] = []

        async def drain(store: Store, me: WorkerRef) -> None:
            for _ in range(40):
                seen.extend(run.rid for run in await take(store, me, 7))

        await asyncio.gather(drain(store, worker), drain(other, theirs))

        assert sorted(seen) == sorted(f"a{n}" for n in range(200))

    async def test_due_runs_are_promoted_once(self, store: Store, other: Store, worker: WorkerRef) -> None:
        """Two workers that find the same runs due at once make each ready once."""
        theirs = await other.register("w2", "", ["h"])
        await ok(store, *(begin(f"a{n}", key=f"k{n % 3}", delay=1) for n in range(60)))
        claimed = await asyncio.gather(take(store, worker), take(other, theirs))
        counts = await store.counts()

        assert len(claimed[0]) + len(claimed[1]) == 3
        assert counts == {("h", Status.RUNNING): 3, ("h", Status.QUEUED): 57}

    # ---- workers

    async def test_a_worker_is_entered_and_seen(self, store: Store, worker: WorkerRef) -> None:
        """Its row shows its name, where its bell hangs, and what it can do."""
        second = await store.register("w2", "", ["x", "y"])

        assert await store.workers() == [
            WorkerRow(worker.id, "w1", worker.epoch, 0, "udp://127.0.0.1:1", ("h",), True),
            WorkerRow(second.id, "w2", second.epoch, 0, "", ("x", "y"), True),
        ]

    async def test_a_heartbeat_is_a_counter(self, store: Store, worker: WorkerRef) -> None:
        """It rises while the worker is who it was, and not once it was declared dead."""
        assert await store.beat(worker)
        assert await store.beat(worker)
        row = await row_of(store, worker)
        assert row.beat == 2
        await store.take_over(row)
        assert not await store.beat(worker)

        assert (await row_of(store, worker)).beat == 2

    async def test_only_one_takes_over(self, store: Store, worker: WorkerRef) -> None:
        """The runs of a dead worker are ready for all, once; what it was asked is still asked."""
        await ok(store, *(begin(f"a{n}", claim=True) for n in range(3)), begin("b"), worker=worker)
        await ok(store, outside(Control("a0", "cancel")))
        row = await row_of(store, worker)
        freed = [await store.take_over(row) for _ in range(3)]

        assert freed == [3, 0, 0]
        assert await statuses(store, "a0", "a1", "a2", "b") == ["ready"] * 4
        assert (await known(store, "a0")).asked == 1
        assert (await known(store, "a1")).worker is None
        assert not (await row_of(store, worker)).alive

    async def test_of_several_observers_one_takes_over(
        self, store: Store, other: Store, worker: WorkerRef
    ) -> None:
        """Two processes that find it dead at the same moment do not both count its runs."""
        for n in range(5):
            me = await store.register(f"n{n}", "", ["h"])
            await ok(store, begin(f"a{n}", claim=True), worker=me)
            row = await row_of(store, me)
            freed = await asyncio.gather(store.take_over(row), other.take_over(row))
            assert sorted(freed) == [0, 1]

    async def test_take_over_and_commit_at_once(self, store: Store, other: Store) -> None:
        """A commit that races its worker's burial is whole or refused, and its run goes on either way."""
        for n in range(15):
            me = await store.register(f"n{n}", "", ["h"])
            [begun] = await ok(store, begin(f"a{n}", claim=True), worker=me)
            row = await row_of(store, me)
            batch: Batch = speak(begun.run, Finish("finish", b"1"), entries=[entry(1)])
            done, freed = await asyncio.gather(store.commit(me, [batch]), other.take_over(row))
            applied = getattr(done.outcomes[0], "why", None) is None
            assert freed == (0 if applied else 1)
            assert await statuses(store, f"a{n}") == ["done" if applied else "ready"]
            assert len(await store.entries(begun.run.id, 0)) == (1 if applied else 0)

    async def test_the_lock_of_a_living_worker_is_held(
        self, store: Store, other: Store, worker: WorkerRef, make_store: MakeStore
    ) -> None:
        """`dead` is false while the process lives, true at once when its store is gone."""
        assert not await other.dead(await row_of(store, worker))
        third = make_store()
        await third.open()
        theirs = await third.register("w3", "", ["h"])
        row = await row_of(store, theirs)
        assert not await store.dead(row)
        await third.close()

        assert await store.dead(row)
        assert not await other.dead(await row_of(store, worker))

    async def test_two_workers_of_one_process_have_locks_of_their_own(
        self, store: Store, other: Store, worker: WorkerRef
    ) -> None:
        """After a worker started anew under another number, both locks tell about their own."""
        again = await store.register("w1", "", ["h"])
        assert not await other.dead(await row_of(store, worker))
        assert not await other.dead(await row_of(store, again))
        row = await row_of(store, again)
        await store.retire(again)

        assert await other.dead(row)
        assert not await other.dead(await row_of(store, worker))

    async def test_a_worker_that_leaves_gives_its_runs_back(self, store: Store, worker: WorkerRef) -> None:
        """Its row is forgotten, what it still held is ready."""
        await ok(store, begin("a", claim=True), worker=worker)
        await store.retire(worker)

        assert await store.workers() == []
        assert await statuses(store, "a") == ["ready"]
        assert (await known(store, "a")).worker is None
        await store.retire(worker)

    async def test_a_zombie_that_leaves_disturbs_nobody(self, store: Store, worker: WorkerRef) -> None:
        """One that was declared dead takes nothing back from whoever took over."""
        await ok(store, begin("a", claim=True), worker=worker)
        await store.take_over(await row_of(store, worker))
        heir = await store.register("heir", "", ["h"])
        [run] = await take(store, heir)
        await store.retire(worker)

        await ok(store, speak(run, Finish("finish")), worker=heir)

    async def test_numbers_of_workers_are_not_given_again(self, store: Store, worker: WorkerRef) -> None:
        """Nor after the row is gone: what a zombie sends names itself only."""
        await store.take_over(await row_of(store, worker))
        await store.sweep(0)
        assert await store.workers() == []
        heir = await store.register("heir", "", ["h"])

        assert heir.id > worker.id

    async def test_closing_does_not_hand_runs_over(self, make_store: MakeStore, store: Store) -> None:
        """A store that is closed without retiring leaves its row; others see that it is dead."""
        if not getattr(self, "shared", True):
            return
        third = make_store()
        await third.open()
        me = await third.register(f"pid {os.getpid()}", "", ["h"])
        await ok(third, begin("a", claim=True), worker=me)
        await third.close()

        assert await statuses(store, "a") == ["running"]
        assert await store.dead(await row_of(store, me))
        assert await store.take_over(await row_of(store, me)) == 1
