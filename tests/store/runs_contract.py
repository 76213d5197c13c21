"""Promises of every store: the life of a run, from its begin to its end."""

from typing import Any

import pytest

from everstep.core.batch import (
    Applied,
    Asked,
    Begin,
    Change,
    Control,
    Finish,
    Mode,
    Park,
    Refused,
    Release,
    Run,
)
from everstep.core.status import Status, WrongStatus
from everstep.store.base import Claim, Store, WorkerRef
from tests.store.making import (
    HOUR,
    SECOND,
    ManualClock,
    begin,
    entry,
    known,
    ok,
    one,
    outside,
    speak,
    statuses,
    take,
)


class RunsContract:
    async def test_a_run_is_kept_as_it_was_begun(self, store: Store, clock: ManualClock) -> None:
        """Everything a run is begun with is in its row."""
        facts: dict[str, Any] = {
            "mode": Mode.RETRY,
            "input": b'{"n":1}',
            "topic": "POST /orders",
            "key": "k",
            "priority": 3,
            "hops": 2,
            "trace": "abc",
            "fp": (1 << 63) - 1,
        }
        [parent] = await ok(store, begin("p"))
        [begun] = await ok(store, begin("a", parent=parent.run.id, **facts))
        run = await known(store, "a")

        assert run == begun.run
        assert {name: getattr(run, name) for name in facts} == facts
        assert (run.parent, run.epoch, run.claims, run.worker) == (parent.run.id, 0, 0, None)
        assert clock.us - SECOND < run.created_at <= clock.us

    async def test_a_run_can_be_born_claimed(self, store: Store, worker: WorkerRef) -> None:
        """With `claim` it runs at once, owned by the worker that commits; nobody else gets it."""
        [begun] = await ok(store, begin("a", claim=True), worker=worker)
        run = begun.run

        assert (run.status, run.worker, run.epoch, run.claims) == (Status.RUNNING, worker.id, 1, 1)
        assert run.started_at is not None
        assert await take(store, worker) == []
        assert await known(store, "a") == run
        await ok(store, speak(run, entries=[entry(1)]), worker=worker)

    async def test_without_a_worker_nothing_is_born_claimed(self, store: Store) -> None:
        """A client that is no worker leaves the run to others."""
        [begun] = await ok(store, begin("a", claim=True))

        assert begun.run.status == Status.READY

    async def test_a_run_behind_others_is_not_born_claimed(self, store: Store, worker: WorkerRef) -> None:
        """A key that is held, or a delay, comes before the wish to start at once."""
        await ok(
            store,
            begin("a", key="k", claim=True),
            begin("b", key="k", claim=True),
            begin("c", delay=SECOND, claim=True),
            worker=worker,
        )

        assert await statuses(store, "a", "b", "c") == ["running", "queued", "scheduled"]

    @pytest.mark.parametrize(
        ("event", "label"),
        [("finish", "done"), ("fail", "failed"), ("cancel", "cancelled"), ("skip", "skipped")],
    )
    async def test_an_ended_run_keeps_its_result(
        self, store: Store, worker: WorkerRef, event: str, label: str
    ) -> None:
        """Output or error, and when; nobody holds it any more, and the group says that it ended."""
        await ok(store, begin("a", claim=True), worker=worker)
        batch = speak(await known(store, "a"), Finish(event, output=b"1", error=b"2"))
        done = await store.commit(worker, [batch])
        run = await known(store, "a")

        assert run.state.label == label
        assert (run.output, run.error, run.worker) == (b"1", b"2", None)
        assert run.finished_at is not None
        assert [(r.rid, r.output) for r in done.ended] == [("a", b"1")]
        assert await take(store, worker) == []

    async def test_a_run_ends_once(self, store: Store, worker: WorkerRef) -> None:
        """A second end in one batch, or in a later one, is refused."""
        await ok(store, begin("a", claim=True), worker=worker)
        run = await known(store, "a")
        twice = await one(store, speak(run, Finish("finish", b"1"), Finish("fail")), worker)

        assert isinstance(twice, Refused)
        assert (twice.why, await statuses(store, "a")) == ("status", ["running"])
        await ok(store, speak(run, Finish("finish", b"1")), worker=worker)
        assert isinstance(await one(store, speak(run, Finish("fail")), worker), Refused)
        assert (await known(store, "a")).output == b"1"

    async def test_a_released_run_is_ready_again(self, store: Store, worker: WorkerRef) -> None:
        """Given back without a pause, any worker may claim it; its epoch rises with the claim."""
        await ok(store, begin("a", claim=True), worker=worker)
        done = await store.commit(worker, [speak(await known(store, "a"), Release())])
        [run] = await take(store, worker)

        assert done.ready == {"h"}
        assert (run.epoch, run.attempt, run.claims) == (2, 0, 1)

    async def test_a_failed_attempt_waits_for_its_delay(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """Not before its due time, then at once; the attempt is counted and the error kept."""
        await ok(store, begin("a", claim=True, mode=Mode.RETRY), worker=worker)
        release = Release(delay=2 * SECOND, failed=True, error=b"boom")
        done = await store.commit(worker, [speak(await known(store, "a"), release)])
        run = await known(store, "a")

        assert done.due == run.due_at
        assert await store.next_due() == run.due_at
        assert (run.state.label, run.attempt, run.error, run.worker) == ("scheduled", 1, b"boom", None)
        clock.skip(SECOND)
        assert await take(store, worker) == []
        clock.skip(SECOND)
        [run] = await take(store, worker)
        assert (run.rid, run.attempt, run.due_at) == ("a", 1, None)
        assert await store.next_due() is None

    @pytest.mark.parametrize(("event", "label"), [("attention", "needs_attention"), ("pause", "paused")])
    async def test_a_run_can_be_set_aside(
        self, store: Store, worker: WorkerRef, event: str, label: str
    ) -> None:
        """Set aside by its own worker, it is held by nobody and goes on when resumed."""
        await ok(store, begin("a", claim=True), worker=worker)
        await ok(store, speak(await known(store, "a"), Release(event=event, error=b"why")), worker=worker)
        run = await known(store, "a")

        assert (run.state.label, run.error, run.worker) == (label, b"why", None)
        assert await take(store, worker) == []
        await ok(store, outside(Control("a", "resume")))
        assert [r.rid for r in await take(store, worker)] == ["a"]

    async def test_a_delayed_run_starts_when_it_is_due(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """Due runs are made ready by the next claim, and only due ones."""
        await ok(store, begin("late", delay=2 * HOUR), begin("soon", delay=HOUR))
        assert await take(store, worker) == []
        clock.skip(HOUR)
        assert [r.rid for r in await take(store, worker)] == ["soon"]
        clock.skip(HOUR)
        assert [r.rid for r in await take(store, worker)] == ["late"]

    async def test_a_thousand_due_runs_at_a_time(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """After a long stop what is due becomes ready in portions, and the rest is not forgotten."""
        await ok(store, *(begin(f"r{n}", delay=HOUR) for n in range(1_200)))
        clock.skip(2 * HOUR)
        done = await store.commit(worker, [], Claim(1, {"h": 1}))

        assert done.ready == {"h"}
        assert await store.counts() == {("h", Status.RUNNING): 1, ("h", Status.READY): 999, ("h", 0): 200}
        assert await store.next_due() is not None
        await store.commit(worker, [], Claim(1, {"h": 1}))
        assert await store.next_due() is None

    async def test_what_was_asked_meanwhile_counts_more_than_a_release(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """A cancel asked while an attempt was failing is not slept over, a pause is done at once."""
        rids = ["cancel backoff", "cancel pause", "pause backoff", "pause release"]
        await ok(store, *(begin(rid, claim=True) for rid in rids), worker=worker)
        for rid in rids:
            await ok(store, outside(Control(rid, rid.split()[0])))
        releases = [Release(delay=HOUR, failed=True), Release(event="pause"), Release(delay=HOUR), Release()]
        for rid, release in zip(rids, releases, strict=True):
            await ok(store, speak(await known(store, rid), release), worker=worker)

        assert await statuses(store, *rids) == ["ready", "ready", "paused", "paused"]
        assert [(await known(store, rid)).asked for rid in rids] == [Asked.CANCEL, Asked.CANCEL, 0, 0]

    async def test_a_worker_crasher_is_set_aside(self, store: Store, worker: WorkerRef) -> None:
        """Claimed five times without a new entry, a run needs attention instead of a sixth worker."""
        await ok(store, begin("a"))
        me = worker
        for claims in range(1, 6):
            [run] = await take(store, me)
            assert run.claims == claims
            me = await self._crash(store, me)
        assert await take(store, me) == []
        run = await known(store, "a")

        assert run.state.label == "needs_attention"
        assert run.worker is None
        assert b"claimed 5 times" in (run.error or b"")
        await ok(store, outside(Control("a", "resume")))
        assert [r.claims for r in await take(store, me)] == [1]

    async def test_a_new_entry_forgives_crashes(self, store: Store, worker: WorkerRef) -> None:
        """A run that gets on with its journal may be claimed any number of times."""
        await ok(store, begin("a"))
        me = worker
        for number in range(8):
            [run] = await take(store, me)
            await ok(store, speak(run, entries=[entry(number)]), worker=me)
            me = await self._crash(store, me)

        assert await statuses(store, "a") == ["ready"]

    async def _crash(self, store: Store, worker: WorkerRef) -> WorkerRef:
        [row] = [row for row in await store.workers() if row.id == worker.id]
        assert await store.take_over(row) == 1
        return await store.register("next", "", ["h"])

    async def test_large_values_are_whole_wherever_they_come_back(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """A value that was put aside beforehand comes back itself, never its name."""
        data = b"x" * 200_000
        name = b"\x01" + (await store.put_blob("rid:a", data)).encode()
        assert await store.get_blob(name[1:].decode()) == data
        [begun] = await ok(store, begin("a", input=name))
        [again] = await ok(store, begin("a", input=b"1"))
        refused = await one(store, begin("a", attach=False))
        [run] = await take(store, worker)
        batch = speak(run, Finish("finish", output=name), entries=[entry(1, name)])
        done = await store.commit(worker, [batch])

        assert isinstance(refused, Refused)
        inputs = [begun.run.input, again.run.input, refused.current.input, run.input]
        inputs += [(await known(store, "a")).input, (await store.runs())[0].input]
        assert all(value == data for value in inputs)
        assert done.ended[0].output == data
        assert (await known(store, "a")).output == data
        assert (await store.entries(run.id, 0))[0].value == data

    async def test_a_control_answers_the_run_as_it_left_it(self, store: Store) -> None:
        """The result is the row after the change, and stays so whatever comes after in the group."""
        await ok(store, begin("a"))
        paused, resumed = await ok(store, outside(Control("a", "pause")), outside(Control("a", "resume")))

        assert isinstance(paused, Run)
        assert (paused.status, resumed.status) == (Status.PAUSED, Status.READY)

    async def test_a_control_that_makes_no_sense_is_refused(self, store: Store) -> None:
        """The refusal carries the error that says which statuses would do."""
        await ok(store, begin("a"))
        outcome = await one(store, outside(Control("a", "resume")))

        assert isinstance(outcome, Refused)
        assert outcome.why == "status"
        assert isinstance(outcome.current, WrongStatus)
        assert (outcome.current.event, outcome.current.status) == ("resume", Status.READY)

    async def test_a_cancelled_body_sees_it(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """A replay-mode run that has begun is roused from any status, to compensate what it did."""
        rids = ["parked", "paused", "aside", "back"]
        await ok(store, *(begin(rid, claim=True) for rid in rids), worker=worker)
        ways: list[Change] = [
            Park(0, clock.us + HOUR),
            Release(event="pause"),
            Release(event="attention"),
            Release(),
        ]
        for rid, way in zip(rids, ways, strict=True):
            await ok(store, speak(await known(store, rid), way), worker=worker)
        await ok(store, begin("new"), begin("retry", mode=Mode.RETRY))
        for rid in [*rids, "new", "retry"]:
            await ok(store, outside(Control(rid, "cancel", error=b"by hand")))

        assert await statuses(store, *rids) == ["ready"] * 4
        assert await statuses(store, "new", "retry") == ["cancelled"] * 2
        assert (await known(store, "new")).error == b"by hand"
        claimed = await take(store, worker)
        assert [(run.rid, run.asked) for run in claimed] == [(rid, Asked.CANCEL) for rid in rids]

    async def test_what_a_running_run_is_asked_reaches_its_worker(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """Cancel and pause of a running run are asked, once, and a cancel is not taken back by a pause."""
        await ok(store, begin("a", claim=True), begin("b", claim=True), worker=worker)
        done = await store.commit(None, [outside(Control("a", "cancel")), outside(Control("b", "pause"))])
        a, b = await known(store, "a"), await known(store, "b")

        assert done.asked == [a.id, b.id]
        assert [(run.rid, run.asked) for run in await store.asked(worker)] == [("a", 1), ("b", 2)]
        assert isinstance(await one(store, outside(Control("a", "pause"))), Refused)
        assert isinstance(await one(store, outside(Control("b", "cancel"))), Applied)
        assert {run.asked for run in await store.asked(worker)} == {Asked.CANCEL}
        await ok(store, speak(a, Finish("cancel")), worker=worker)
        assert [run.rid for run in await store.asked(worker)] == ["b"]

    async def test_redrive_keeps_or_forgets_what_was_remembered(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """Redrive goes on with the journal, redrive as new begins a generation; both count from 0."""
        await ok(store, begin("a", mode=Mode.RETRY, claim=True), worker=worker)
        run = await known(store, "a")
        await ok(store, speak(run, Finish("fail", error=b"x"), entries=[entry(1)]), worker=worker)
        [again] = await ok(store, outside(Control("a", "redrive")))
        assert (again.generation, again.attempt, again.finished_at) == (0, 0, None)
        [run] = await take(store, worker)
        await ok(store, speak(run, Finish("fail", error=b"x")), worker=worker)
        [new] = await ok(store, outside(Control("a", "redrive_new", input=b"2")))

        assert (new.generation, new.input, new.state.label) == (1, b"2", "ready")
        assert len(await store.entries(run.id, 0)) == 1
        assert await store.entries(run.id, 1) == []

    async def test_discard_ends_what_nobody_wants(self, store: Store, worker: WorkerRef) -> None:
        """A dead letter, or a run that needs attention, is cancelled by it; nothing else is."""
        await ok(store, begin("dead", claim=True), begin("aside", claim=True), begin("ok"), worker=worker)
        await ok(store, speak(await known(store, "dead"), Finish("fail")), worker=worker)
        await ok(store, speak(await known(store, "aside"), Release(event="attention")), worker=worker)
        await ok(store, outside(Control("dead", "discard")), outside(Control("aside", "discard")))

        assert await statuses(store, "dead", "aside") == ["cancelled", "cancelled"]
        assert isinstance(await one(store, outside(Control("ok", "discard"))), Refused)

    async def test_an_unknown_change_spoils_only_its_group(self, store: Store) -> None:
        """A defect of the caller raises, and nothing was written."""
        with pytest.raises(AttributeError):
            await store.commit(None, [begin("a"), begin("b"), outside(Control("b", "explode"))])

        assert await store.run("a") is None

    async def test_begin_needs_nothing_but_an_id_and_a_handler(self, store: Store) -> None:
        """The defaults of `Begin` make a run that is ready."""
        await ok(store, outside(Begin("x", "h", Mode.REPLAY, b"")))

        assert await statuses(store, "x") == ["ready"]
