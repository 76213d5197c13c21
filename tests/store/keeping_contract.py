"""Promises of every store: what is read, what the sweep repairs, and what is forgotten."""

from everstep.core.batch import Change, Control, Finish, Mode, Park, Release
from everstep.core.journal import MARK
from everstep.core.status import Status
from everstep.store.base import Store, Subscription, WorkerRef
from tests.store.making import (
    HOUR,
    YEAR,
    Execute,
    ManualClock,
    begin,
    entry,
    known,
    ok,
    outside,
    publish,
    speak,
    statuses,
    take,
)


class KeepingContract:
    # ---- reading

    async def test_runs_are_listed_newest_first(self, store: Store, worker: WorkerRef) -> None:
        """By handler, by status, messages alone, and page by page."""
        await store.subscribe([Subscription("t", "h2")], ["h2"])
        await ok(store, begin("a"), begin("b"), begin("c", topic="POST /x"), begin("d", "h2"), publish("m_1"))
        await ok(store, outside(Control("b", "cancel")))

        async def rids(**options: object) -> list[str]:
            return [run.rid for run in await store.runs(**options)]  # type: ignore[arg-type]

        assert await rids() == ["r_1", "d", "c", "b", "a"]
        assert await rids(handler="h2") == ["r_1", "d"]
        assert await rids(statuses=[Status.CANCELLED]) == ["b"]
        assert await rids(statuses=[Status.CANCELLED, Status.READY], handler="h") == ["c", "b", "a"]
        assert await rids(topics_only=True) == ["r_1"]
        assert await rids(limit=2) == ["r_1", "d"]
        assert await rids(limit=2, before=(await known(store, "d")).id) == ["c", "b"]
        assert await rids(handler="nobody") == []

    async def test_runs_are_counted(self, store: Store) -> None:
        """By handler and status."""
        await ok(store, begin("a"), begin("b"), begin("c", delay=5), begin("d", "h2"))

        assert await store.counts() == {
            ("h", Status.READY): 2,
            ("h", Status.SCHEDULED): 1,
            ("h2", Status.READY): 1,
        }

    async def test_a_journal_is_read_in_the_order_of_delivery(self, store: Store, worker: WorkerRef) -> None:
        """Entries with a seq by it, then those that were never delivered; lanes do not matter."""
        await ok(store, begin("a", claim=True), worker=worker)
        run = await known(store, "a")
        entries = [
            entry(1, None, state=MARK),
            entry(1, seq=3, lane="0/2"),
            entry(1, seq=1, lane="0/@Build:1"),
            entry(2, b"", seq=2),
        ]
        await ok(store, speak(run, entries=entries), worker=worker)

        assert await store.entries(run.id, 0) == [entries[2], entries[3], entries[1], entries[0]]
        assert await store.entries(run.id, 1) == []
        assert await store.entries(12345, 0) == []

    async def test_what_is_not_there_is_none(self, store: Store) -> None:
        """Reading what never was is no error."""
        assert await store.run("nobody") is None
        assert await store.promises(77) == []
        assert await store.kv_get("g", "k") is None
        assert await store.next_due() is None
        assert await store.counts() == {}
        assert await store.runs() == []

    async def test_the_next_due_time_is_the_earliest(self, store: Store, worker: WorkerRef) -> None:
        """Of scheduled and of parked runs."""
        await ok(store, begin("a", delay=3 * HOUR), begin("b", claim=True), worker=worker)
        first = await store.next_due()
        due = store.now() + HOUR
        done = await store.commit(worker, [speak(await known(store, "b"), Park(0, due))])

        assert first == (await known(store, "a")).due_at
        assert await store.next_due() == due == done.due

    async def test_the_clock_of_a_store_does_not_go_back(self, store: Store, clock: ManualClock) -> None:
        """What was later stays later, for one process."""
        before = store.now()
        assert store.now() >= before

        clock.skip(HOUR)
        assert store.now() >= before + HOUR

    # ---- repairing

    async def test_a_healthy_store_needs_no_repair(self, store: Store, worker: WorkerRef) -> None:
        """Every status, a held key and a paused key are as they should be."""
        rids = ["parked", "paused", "aside", "done", "failed"]
        await ok(store, *(begin(rid, claim=True, key=rid) for rid in rids), worker=worker)
        await ok(store, *(begin(f"behind {rid}", key=rid, mode=Mode.RETRY) for rid in rids))
        ways: list[Change] = [
            Park(0),
            Release(event="pause"),
            Release(event="attention"),
            Finish("finish"),
            Finish("fail"),
        ]
        for rid, way in zip(rids, ways, strict=True):
            await ok(store, speak(await known(store, rid), way), worker=worker)
        await ok(store, begin("x", delay=HOUR))
        await ok(store, outside(Control("behind done", "pause")))

        assert await store.sweep(YEAR) == (0, 0)

    async def test_a_lost_wake_is_found(self, store: Store, worker: WorkerRef, execute: Execute) -> None:
        """A parked run whose wait is true is made ready, and counted."""
        await ok(store, begin("a", claim=True), begin("b", claim=True), worker=worker)
        for rid in "ab":
            await ok(store, speak(await known(store, rid), Park(0, store.now() + HOUR)), worker=worker)
        await execute("UPDATE run SET wakes = wakes + 1 WHERE rid = 'a'")

        assert await store.sweep(YEAR) == (1, 0)
        assert await statuses(store, "a", "b") == ["ready", "parked"]
        assert await store.sweep(YEAR) == (0, 0)
        assert [run.rid for run in await take(store, worker)] == ["a"]

    async def test_a_lost_head_is_found(self, store: Store, worker: WorkerRef, execute: Execute) -> None:
        """A key with runs and nobody to hold it gets the first of them as its head."""
        await ok(store, *(begin(rid, key="k") for rid in "abc"))
        await execute("UPDATE run SET status = 9, key_pos = NULL, finished_at = 1 WHERE rid = 'a'")
        await execute("UPDATE key SET length = 2 WHERE key = 'k'")

        assert (await store.sweep(YEAR))[0] == 1
        assert await statuses(store, "b", "c") == ["ready", "queued"]
        [b] = await take(store, worker)
        await ok(store, speak(b, Finish("finish")), worker=worker)
        assert await statuses(store, "c") == ["ready"]

    async def test_a_key_whose_head_is_nobody_is_found(
        self, store: Store, worker: WorkerRef, execute: Execute
    ) -> None:
        """Also when the row names no head at all."""
        await ok(store, *(begin(rid, key="k") for rid in "ab"))
        await execute("UPDATE run SET status = 1 WHERE rid = 'a'")
        await execute("UPDATE key SET head = 0")

        assert (await store.sweep(YEAR))[0] == 1
        assert await statuses(store, "a", "b") == ["ready", "queued"]

    async def test_a_run_of_a_worker_that_never_was_is_found(
        self, store: Store, worker: WorkerRef, execute: Execute
    ) -> None:
        """Running without a row of its worker, it would hang for ever: it is made ready."""
        await ok(store, begin("a", claim=True), worker=worker)
        await execute("UPDATE run SET worker = 4711 WHERE rid = 'a'")

        assert await store.sweep(YEAR) == (1, 0)
        assert await statuses(store, "a") == ["ready"]
        assert (await known(store, "a")).worker is None

    # ---- forgetting

    async def test_old_runs_are_forgotten_with_all_they_had(
        self, store: Store, worker: WorkerRef, clock: ManualClock, execute: Execute
    ) -> None:
        """Entries, promises and large values go; dead letters, waiting and young runs stay."""
        rids = ["old", "failed", "parked", "young", "last"]
        await ok(store, *(begin(rid, claim=True) for rid in rids), worker=worker)
        old = await known(store, "old")
        owners = ("rid:old", f"run:{old.id}", "rid:young")
        blobs = [await store.put_blob(owner, b"x" * 70_000) for owner in owners]
        ends: list[Change] = [Finish("finish"), Finish("fail"), Park(0)]
        for rid, end in zip(rids, ends, strict=False):
            await ok(store, speak(await known(store, rid), end, entries=[entry(1)]), worker=worker)
        clock.skip(2 * HOUR)
        await ok(store, speak(await known(store, "young"), Finish("finish")), worker=worker)

        assert await store.sweep(HOUR) == (0, 1)
        assert await store.run("old") is None
        assert await store.entries(old.id, 0) == []
        assert {run.rid for run in await store.runs()} == {"failed", "parked", "young", "last"}
        assert await execute("SELECT id FROM blob") == [(blobs[2],)]

    async def test_large_values_of_messages_go_with_their_last_run(
        self, store: Store, worker: WorkerRef, clock: ManualClock, execute: Execute
    ) -> None:
        """Every Step of a topic shares the value: one run that is forgotten does not take it along."""
        await store.subscribe([Subscription("t", "h"), Subscription("t", "h2")], ["h", "h2"])
        data = b"x" * 70_000
        name = b"\x01" + (await store.put_blob("mid:m_1", data)).encode()
        await ok(store, publish("m_1", data=name), begin("last"))
        [first] = await take(store, worker, 1, h=1)
        await ok(store, speak(first, Finish("finish")), worker=worker)
        clock.skip(HOUR)
        assert await store.sweep(1) == (0, 1)
        [second] = await take(store, worker, 1, h2=1)
        assert second.input == data
        await ok(store, speak(second, Finish("finish")), worker=worker)
        clock.skip(HOUR)
        assert await store.sweep(1) == (0, 1)

        assert await execute("SELECT id FROM blob") == []

    async def test_large_values_nobody_named_go_after_a_day(
        self, store: Store, worker: WorkerRef, clock: ManualClock, execute: Execute
    ) -> None:
        """A commit that was refused leaves its large values behind; whoever is named keeps its own."""
        await ok(store, begin("a"), begin("123", claim=True), worker=worker)
        run = await known(store, "123")
        kept = [await store.put_blob(o, b"x") for o in ("rid:a", "rid:123", f"run:{run.id}", "mid:m_1")]
        for owner in ("rid:b", "run:99999", "mid:m_2"):
            await store.put_blob(owner, b"x")
        await ok(store, publish("m_1", "nobody"))
        await store.sweep(YEAR)
        assert len(await execute("SELECT id FROM blob")) == 7
        clock.skip(25 * HOUR)
        for _ in range(3):
            await store.sweep(YEAR)

        assert sorted(row[0] for row in await execute("SELECT id FROM blob")) == sorted(kept)

    async def test_numbers_of_runs_are_not_given_again(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """Nor after the newest run was forgotten: what a zombie still sends names its own."""
        await ok(store, begin("a", claim=True), worker=worker)
        a = await known(store, "a")
        await ok(store, speak(a, Finish("finish")), worker=worker)
        clock.skip(HOUR)
        await store.sweep(1)
        [begun] = await ok(store, begin("b"))

        assert begun.run.id > a.id

    async def test_dead_workers_are_forgotten(self, store: Store, worker: WorkerRef) -> None:
        """Once they hold nothing; the living stay."""
        dead = await store.register("dead", "", ["h"])
        await ok(store, begin("a", claim=True), worker=dead)
        await store.take_over(next(row for row in await store.workers() if row.id == dead.id))
        await store.sweep(YEAR)

        assert [row.id for row in await store.workers()] == [worker.id]
