"""Promises of every store: nobody waits for what has already come."""

import asyncio

import pytest

from everstep.core.batch import Applied, Batch, Finish, Park, Refused, Settle
from everstep.core.journal import ERROR, OK
from everstep.store.base import PromiseRow, Store, WorkerRef
from tests.store.making import (
    HOUR,
    MakeStore,
    ManualClock,
    begin,
    known,
    ok,
    one,
    outside,
    speak,
    statuses,
    take,
)


def settle(rid: str, name: str = "p", value: bytes = b"1", state: int = OK, by: str = "") -> Batch:
    return outside(Settle(rid, name, state, value, by))


class WaitsContract:
    async def test_a_parked_run_wakes_when_its_promise_is_settled(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """Park first, settle later: the run is ready, and its handler is named."""
        await ok(store, begin("a", claim=True), worker=worker)
        await ok(store, speak(await known(store, "a"), Park(0)), worker=worker)
        parked = await known(store, "a")
        assert (parked.state.label, parked.worker, parked.claims) == ("parked", None, 0)
        assert await take(store, worker) == []
        done = await store.commit(None, [settle("a", by="ann")])

        assert done.ready == {"h"}
        [run] = await take(store, worker)
        assert run.wakes == 1
        [row] = await store.promises(run.id)
        assert (row.name, row.state, row.value, row.by) == ("p", OK, b"1", "ann")
        assert isinstance(row, PromiseRow)

    async def test_a_run_that_was_woken_since_does_not_park(self, store: Store, worker: WorkerRef) -> None:
        """Settle first, park later: the park is refused with the wakes there are now."""
        await ok(store, begin("a", claim=True), worker=worker)
        await ok(store, settle("a"))
        run = await known(store, "a")

        assert await one(store, speak(run, Park(0)), worker) == Refused("wakes", 1)
        assert await statuses(store, "a") == ["running"]
        await ok(store, speak(run, Park(1)), worker=worker)
        assert await statuses(store, "a") == ["parked"]

    @pytest.mark.parametrize("park_first", [True, False])
    async def test_park_and_settle_in_one_group_leave_nobody_waiting(
        self, store: Store, worker: WorkerRef, park_first: bool
    ) -> None:
        """In either order the run is ready or still running, never parked."""
        await ok(store, begin("a", claim=True), worker=worker)
        pair = [speak(await known(store, "a"), Park(0)), settle("a")]
        outcomes = (await store.commit(worker, pair if park_first else pair[::-1])).outcomes

        assert await statuses(store, "a") == (["ready"] if park_first else ["running"])
        assert isinstance(outcomes[1], Applied if park_first else Refused)

    async def test_park_and_settle_at_once_leave_nobody_waiting(
        self, store: Store, other: Store, worker: WorkerRef
    ) -> None:
        """Two processes, one parks and one settles at the same moment: the run is never left parked."""
        rids = [f"a{n}" for n in range(20)]
        await ok(store, *(begin(rid, claim=True) for rid in rids), worker=worker)
        for rid in rids:
            run = await known(store, rid)
            parked, _ = await asyncio.gather(
                one(store, speak(run, Park(0)), worker), ok(other, settle(rid)), return_exceptions=False
            )
            expected = "ready" if isinstance(parked, Applied) else "running"
            assert await statuses(store, rid) == [expected]

    async def test_the_first_settlement_wins(self, store: Store) -> None:
        """A later one with another value is refused with the first; an equal one changes nothing."""
        await ok(store, begin("a"))
        [first] = await ok(store, settle("a", value=b"1", by="ann"))
        outcome = await one(store, settle("a", value=b"2", by="bob"))
        [equal] = await ok(store, settle("a", value=b"1", by="cy"))

        assert isinstance(outcome, Refused)
        assert (outcome.why, outcome.current.value, outcome.current.by) == ("promise", b"1", "ann")
        assert equal == first
        assert (await known(store, "a")).wakes == 1
        error = await one(store, settle("a", value=b"1", state=ERROR))
        assert isinstance(error, Refused)

    async def test_two_processes_settle_a_promise_once(self, store: Store, other: Store) -> None:
        """Of two settlements at the same moment one is applied, the other is told which."""
        await ok(store, begin("a"))
        for n in range(10):
            outcomes = await asyncio.gather(
                one(store, settle("a", f"p{n}", b"1")), one(other, settle("a", f"p{n}", b"2"))
            )
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Applied", "Refused"]
        promises = await store.promises((await known(store, "a")).id)
        assert len(promises) == 10
        assert (await known(store, "a")).wakes == 10

    async def test_an_ended_run_takes_no_settlement(self, store: Store, worker: WorkerRef) -> None:
        """What nobody can receive any more is refused."""
        await ok(store, begin("a", claim=True), worker=worker)
        await ok(store, speak(await known(store, "a"), Finish("finish")), worker=worker)
        outcome = await one(store, settle("a"))

        assert isinstance(outcome, Refused)
        assert outcome.why == "status"

    async def test_a_promise_can_be_settled_before_its_run_starts(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """Also behind others of its key, or before its time; the run finds it when it starts."""
        await ok(store, begin("a", key="k"), begin("b", key="k"), begin("c", delay=HOUR))
        await ok(store, settle("b"), settle("c"))

        assert await statuses(store, "b", "c") == ["queued", "scheduled"]
        assert [(await known(store, rid)).wakes for rid in "bc"] == [1, 1]

    async def test_a_parked_run_wakes_at_its_time(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """A due time is a wait too: it counts as a wake, once."""
        await ok(store, begin("a", claim=True), worker=worker)
        await ok(store, speak(await known(store, "a"), Park(0, clock.us + HOUR)), worker=worker)
        assert await take(store, worker) == []
        clock.skip(HOUR)
        [run] = await take(store, worker)

        assert (run.wakes, run.due_at) == (1, None)

    async def test_a_run_settled_before_its_time_is_not_woken_twice(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """The due time goes with the first wake."""
        await ok(store, begin("a", claim=True), worker=worker)
        await ok(store, speak(await known(store, "a"), Park(0, clock.us + HOUR)), worker=worker)
        await ok(store, settle("a"))
        assert await store.next_due() is None
        clock.skip(2 * HOUR)
        [run] = await take(store, worker)

        assert run.wakes == 1

    async def test_a_child_that_ends_wakes_its_parent(self, store: Store, worker: WorkerRef) -> None:
        """In the commit of its end, however it ends; a parent that is running cannot park past it."""
        [parent] = await ok(store, begin("p", claim=True), worker=worker)
        await ok(store, *(begin(c, parent=parent.run.id, claim=True) for c in ("x", "y", "z")), worker=worker)
        await ok(store, speak(await known(store, "x"), Finish("fail")), worker=worker)
        assert await one(store, speak(parent.run, Park(0)), worker) == Refused("wakes", 1)
        await ok(store, speak(parent.run, Park(1)), worker=worker)
        await ok(store, speak(await known(store, "y"), Finish("finish")), worker=worker)

        assert await statuses(store, "p") == ["ready"]

    async def test_a_parent_can_wait_for_many_at_once(self, store: Store, worker: WorkerRef) -> None:
        """Parked until n children ended, it sleeps through the first n - 1; any other wake still wakes it."""
        [parent] = await ok(store, begin("p", claim=True), worker=worker)
        children = [f"c{n}" for n in range(5)]
        await ok(store, *(begin(c, parent=parent.run.id, claim=True) for c in children), worker=worker)
        await ok(store, speak(parent.run, Park(0, waits=3)), worker=worker)
        for child in children[:2]:
            await ok(store, speak(await known(store, child), Finish("finish")), worker=worker)
            assert await statuses(store, "p") == ["parked"]
        await ok(store, speak(await known(store, children[2]), Finish("finish")), worker=worker)
        [run] = await take(store, worker)
        assert (run.rid, run.wakes, run.waits) == ("p", 1, 0)

        await ok(store, speak(run, Park(1, waits=2)), worker=worker)
        await ok(store, settle("p"))
        [run] = await take(store, worker)
        await ok(store, speak(await known(store, children[3]), Finish("finish")), worker=worker)
        assert await one(store, speak(run, Park(2, waits=1)), worker) == Refused("wakes", 3)

    async def test_children_that_end_at_once_wake_their_parent(
        self, store: Store, other: Store, worker: WorkerRef
    ) -> None:
        """Two processes end the last two children at the same moment: the parent is ready, once."""
        theirs = await other.register("w2", "", ["h"])
        for n in range(10):
            [parent] = await ok(store, begin(f"p{n}", claim=True), worker=worker)
            await ok(store, begin(f"x{n}", parent=parent.run.id, claim=True), worker=worker)
            await ok(other, begin(f"y{n}", parent=parent.run.id, claim=True), worker=theirs)
            x, y = await known(store, f"x{n}"), await known(store, f"y{n}")
            await ok(store, speak(parent.run, Park(0, waits=2)), worker=worker)
            await asyncio.gather(
                ok(store, speak(x, Finish("finish")), worker=worker),
                ok(other, speak(y, Finish("finish")), worker=theirs),
            )
            assert await statuses(store, f"p{n}") == ["ready"]
            assert (await known(store, f"p{n}")).wakes == 1

    async def test_workers_that_wake_each_others_runs_do_not_stop_each_other(
        self, store: Store, other: Store
    ) -> None:
        """Groups that touch the same runs in opposite order are both applied, again and again."""
        rids = [f"r{n}" for n in range(8)]
        await ok(store, *(begin(rid) for rid in rids))
        for n in range(10):
            await asyncio.gather(
                ok(store, *(settle(rid, f"a{n}") for rid in rids)),
                ok(other, *(settle(rid, f"b{n}") for rid in reversed(rids))),
            )

        assert {(await known(store, rid)).wakes for rid in rids} == {20}

    async def test_what_one_process_wrote_the_other_reads(self, store: Store, make_store: MakeStore) -> None:
        """Nothing is kept from others once a commit returned."""
        if not getattr(self, "shared", True):
            pytest.skip("a store in memory belongs to one process")
        await ok(store, begin("a"))
        other = make_store()
        await other.open()
        try:
            assert await statuses(other, "a") == ["ready"]
            await ok(other, settle("a"))
        finally:
            await other.close()
        assert (await known(store, "a")).wakes == 1
