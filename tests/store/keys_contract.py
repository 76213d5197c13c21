"""Promises of every store: the runs of a key go one at a time, in order, and never stop."""

import asyncio

from everstep.core.batch import Begin, Control, Finish, Mode, Park, Release
from everstep.store.base import Store, Subscription, WorkerRef
from tests.store.making import (
    HOUR,
    SECOND,
    Execute,
    ManualClock,
    begin,
    known,
    ok,
    outside,
    publish,
    speak,
    statuses,
    take,
)


def retry(rid: str, **options: object) -> Begin:
    return Begin(rid, "h", Mode.RETRY, b"", key="k", **options)  # type: ignore[arg-type]


class KeysContract:
    async def test_a_key_goes_in_order_one_at_a_time(self, store: Store, worker: WorkerRef) -> None:
        """The next is ready in the commit that ends the one before, whatever way it ends."""
        await ok(store, *(begin(rid, key="k") for rid in "abcde"))
        assert await statuses(store, *"abcde") == ["ready", "queued", "queued", "queued", "queued"]
        for rid, event in zip("abcd", ("finish", "fail", "cancel", "skip"), strict=True):
            [run] = await take(store, worker)
            assert run.rid == rid
            done = await store.commit(worker, [speak(run, Finish(event))])
            assert done.ready == {"h"}
        [run] = await take(store, worker)

        assert run.rid == "e"

    async def test_keys_do_not_wait_for_each_other(self, store: Store) -> None:
        """Other keys, other handlers with a key of that name, and runs without one go on."""
        await ok(store, begin("a", key="k"), begin("b", key="j"), begin("c", "h2", key="k"), begin("d"))

        assert await statuses(store, *"abcd") == ["ready"] * 4

    async def test_an_empty_key_leaves_nothing_behind(
        self, store: Store, worker: WorkerRef, execute: Execute
    ) -> None:
        """When the last run of a key has ended its row is gone, and the key can be used again."""
        await ok(store, begin("a", key="k", claim=True), worker=worker)
        await ok(store, speak(await known(store, "a"), Finish("finish")), worker=worker)
        assert await execute("SELECT * FROM key") == []
        await ok(store, begin("b", key="k"))

        assert await statuses(store, "b") == ["ready"]

    async def test_an_end_and_an_enqueue_in_one_group(self, store: Store, worker: WorkerRef) -> None:
        """In either order, also with a cancel of the one that would have followed: nobody is left queued."""
        await ok(store, begin("a", key="k", claim=True), worker=worker)
        end_a = speak(await known(store, "a"), Finish("finish"))
        await ok(store, end_a, begin("b", key="k"), worker=worker)
        assert await statuses(store, "b") == ["ready"]
        [b] = await take(store, worker)
        await ok(store, begin("c", key="k"), speak(b, Finish("finish")), worker=worker)
        assert await statuses(store, "c") == ["ready"]
        [c] = await take(store, worker)
        await ok(store, begin("d", key="k"))
        batches = [speak(c, Finish("finish")), outside(Control("d", "cancel")), begin("e", key="k")]
        await ok(store, *batches, worker=worker)

        assert await statuses(store, "c", "d", "e") == ["done", "cancelled", "ready"]

    async def test_an_end_and_an_enqueue_at_once(self, store: Store, other: Store, worker: WorkerRef) -> None:
        """Two processes, one ends the head while the other enqueues: the new run is never stuck."""
        await ok(store, begin("r0", key="k", claim=True), worker=worker)
        run = await known(store, "r0")
        for n in range(1, 25):
            await asyncio.gather(
                ok(store, speak(run, Finish("finish")), worker=worker), ok(other, begin(f"r{n}", key="k"))
            )
            [run] = await take(store, worker)
            assert run.rid == f"r{n}"

    async def test_delayed_messages_join_when_they_are_due(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """A delay does not hold the key: the place is taken when the time has come."""
        await ok(store, begin("late", key="k", delay=HOUR), begin("a", key="k"), begin("b", key="k"))
        assert await statuses(store, "late", "a", "b") == ["scheduled", "ready", "queued"]
        clock.skip(HOUR)
        order = []
        for _ in range(3):
            [run] = await take(store, worker)
            order.append(run.rid)
            await ok(store, speak(run, Finish("finish")), worker=worker)

        assert order == ["a", "b", "late"]

    async def test_a_pause_between_attempts_keeps_the_key(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """Order is kept over retries: who backs off, is parked or set aside still holds its key."""
        await ok(store, begin("a", key="k", claim=True), begin("b", key="k"), worker=worker)
        await ok(store, speak(await known(store, "a"), Release(delay=SECOND, failed=True)), worker=worker)
        assert await take(store, worker) == []
        clock.skip(SECOND)
        [run] = await take(store, worker)
        assert run.rid == "a"
        await ok(store, speak(run, Park(0, clock.us + SECOND)), worker=worker)
        assert await take(store, worker) == []
        clock.skip(2 * SECOND)
        [run] = await take(store, worker)
        await ok(store, speak(run, Release(event="attention")), worker=worker)
        assert await take(store, worker) == []
        await ok(store, outside(Control("a", "discard")))

        assert [r.rid for r in await take(store, worker)] == ["b"]

    async def test_cancel_of_a_queued_run_leaves_the_others_in_order(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """The head keeps its key, and the one after goes next."""
        await ok(store, *(outside(retry(rid)) for rid in "abc"))
        await ok(store, outside(Control("b", "cancel")))
        [a] = await take(store, worker)
        await ok(store, speak(a, Finish("finish")), worker=worker)

        assert await statuses(store, *"abc") == ["done", "cancelled", "ready"]

    async def test_cancel_of_the_head_frees_the_key(self, store: Store) -> None:
        """Also of one that was paused, or waits between attempts."""
        await ok(store, *(outside(retry(rid)) for rid in "abc"))
        await ok(store, outside(Control("a", "cancel")))
        await ok(store, outside(Control("b", "pause")), outside(Control("b", "cancel")))

        assert await statuses(store, *"abc") == ["cancelled", "cancelled", "ready"]

    async def test_a_redriven_message_goes_to_the_end_of_its_key(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """It lost its place when it failed; behind the others of its key it waits again."""
        await ok(store, *(outside(retry(rid)) for rid in "ab"))
        [a] = await take(store, worker)
        await ok(store, speak(a, Finish("fail")), worker=worker)
        await ok(store, outside(Control("a", "redrive")))
        assert await statuses(store, "a", "b") == ["queued", "ready"]
        [b] = await take(store, worker)
        await ok(store, speak(b, Finish("finish")), worker=worker)

        assert [r.rid for r in await take(store, worker)] == ["a"]

    async def test_a_paused_head_holds_its_key_and_a_paused_follower_does_not(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """Whoever is paused behind the head is passed over, and comes back to its own place."""
        await ok(store, *(outside(retry(rid)) for rid in "abcd"))
        await ok(store, outside(Control("a", "pause")), outside(Control("b", "pause")))
        assert await take(store, worker) == []
        await ok(store, outside(Control("a", "resume")))
        [a] = await take(store, worker)
        await ok(store, speak(a, Finish("finish")), worker=worker)
        assert await statuses(store, *"bcd") == ["paused", "ready", "queued"]
        await ok(store, outside(Control("b", "resume")))
        [c] = await take(store, worker)
        await ok(store, speak(c, Finish("finish")), worker=worker)

        assert await statuses(store, *"bcd") == ["ready", "done", "queued"]

    async def test_a_key_of_paused_runs_lets_the_next_one_through(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """When all that is left is paused nobody holds the key: who comes or is resumed takes it."""
        await ok(store, *(outside(retry(rid)) for rid in "abc"))
        await ok(store, outside(Control("b", "pause")), outside(Control("c", "pause")))
        [a] = await take(store, worker)
        await ok(store, speak(a, Finish("finish")), worker=worker)
        await ok(store, outside(retry("d")))
        assert await statuses(store, *"bcd") == ["paused", "paused", "ready"]
        await ok(store, outside(Control("d", "cancel")), outside(Control("c", "resume")))

        assert await statuses(store, *"bcd") == ["paused", "ready", "cancelled"]

    async def test_a_resumed_run_does_not_pass_the_one_in_front(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """Resumed in the very group that frees the key, it keeps its own place."""
        await ok(store, *(outside(retry(rid)) for rid in "abc"))
        await ok(store, outside(Control("c", "pause")))
        [a] = await take(store, worker)
        await ok(store, speak(a, Finish("finish")), outside(Control("c", "resume")), worker=worker)

        assert await statuses(store, *"abc") == ["done", "ready", "queued"]

    async def test_a_cancel_of_a_body_in_a_key_waits_for_its_turn(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """A body that began, failed and is queued again sees its cancel as the head, not beside it."""
        await ok(store, begin("a", key="k", claim=True), begin("b", key="k"), worker=worker)
        await ok(store, speak(await known(store, "a"), Finish("fail")), worker=worker)
        await ok(store, outside(Control("a", "redrive")), outside(Control("a", "cancel")))

        assert await statuses(store, "a", "b") == ["queued", "ready"]

    async def test_messages_of_a_group_go_in_order(self, store: Store, worker: WorkerRef) -> None:
        """A FIFO Step gets the messages of one group in the order of their commit."""
        await store.subscribe([Subscription("t", "h", fifo=True), Subscription("t", "free")], ["h", "free"])
        await ok(store, *(publish(f"m_{n}", group="g") for n in range(5)))
        seen = []
        while claimed := await take(store, worker, h=10):
            assert len(claimed) == 1
            seen += [run.rid for run in claimed]
            await ok(store, *(speak(run, Finish("finish")) for run in claimed), worker=worker)

        assert seen == [f"r_{n}-1" for n in range(5)]
        assert len(await take(store, worker, free=10)) == 5

    async def test_the_row_of_a_key_counts_its_runs(
        self, store: Store, worker: WorkerRef, execute: Execute
    ) -> None:
        """Head, tail and length are what the runs say."""
        await ok(store, *(outside(retry(rid)) for rid in "abc"), begin("x", key="j", delay=HOUR))
        head = (await known(store, "a")).id

        assert await execute("SELECT handler, key, head, tail, length FROM key") == [("h", "k", head, 3, 3)]
