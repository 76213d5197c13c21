"""Promises of every store: batches travel together and share no fate."""

import pytest

from everstep.core.batch import (
    APPLIED,
    Applied,
    Begin,
    Begun,
    Change,
    Control,
    Finish,
    KvSet,
    KvUpdate,
    KvVersion,
    Mode,
    PromiseOpen,
    Publish,
    Published,
    Refused,
    Settle,
)
from everstep.core.journal import MARK, OK, RESULT
from everstep.core.status import Status
from everstep.store.base import Claim, Store, Subscription, WorkerRef
from tests.store.making import begin, entry, known, ok, one, outside, publish, speak, statuses, take


class GroupsContract:
    async def test_a_refused_batch_leaves_its_neighbours_alone(self, store: Store) -> None:
        """One duplicate id does not undo the others of its group."""
        done = await store.commit(None, [begin("a", attach=False), begin("a", attach=False), begin("b")])

        assert [type(outcome) for outcome in done.outcomes] == [Applied, Refused, Applied]
        assert isinstance(done.outcomes[1], Refused)
        assert done.outcomes[1].why == "id_taken"
        assert done.outcomes[1].current.rid == "a"
        assert await statuses(store, "a", "b") == ["ready", "ready"]

    async def test_nothing_of_a_refused_batch_is_written(self, store: Store, worker: WorkerRef) -> None:
        """A batch is all or nothing: its entries, state, messages, runs and promises."""
        await store.subscribe([Subscription("t", "h")], ["h"])
        await ok(store, begin("a"), begin("taken"))
        [run, _] = await take(store, worker)
        changes: list[Change] = [
            KvSet("g", "k", b"1"),
            Publish("m_1", "t", b"1"),
            Publish("m_2", "nobody", b"1"),
            Begin("new", "h", Mode.REPLAY, b""),
            Settle("a", "p", OK, b"1"),
            Begin("taken", "h", Mode.REPLAY, b"", attach=False),
        ]
        outcome = await one(store, speak(run, *changes, entries=[entry(1)]), worker)

        assert isinstance(outcome, Refused)
        assert await store.entries(run.id, 0) == []
        assert await store.kv_get("g", "k") is None
        assert await store.run("r_1") is None
        assert await store.run("new") is None
        assert await store.unrouted() == []
        assert await store.promises(run.id) == []
        assert (await known(store, "a")).wakes == 0

    async def test_later_batches_see_what_earlier_ones_of_their_group_did(self, store: Store) -> None:
        """Batches are decided in the order given."""
        add = outside(KvUpdate("g", "n", [{"type": "increment", "path": "", "by": 1}]))
        results = await ok(store, add, add, add)

        assert results == [(None, b"1"), (b"1", b"2"), (b"2", b"3")]
        row = await store.kv_get("g", "n")
        assert row is not None
        assert row.value == b"3"

    async def test_a_group_of_nothing_is_nothing(self, store: Store, worker: WorkerRef) -> None:
        """An empty group has no outcomes and claims nothing where nothing is."""
        done = await store.commit(worker, [], Claim(5, {"h": 5}))

        assert done.outcomes == []
        assert done.claimed == []

    async def test_a_worker_declared_dead_commits_nothing(self, store: Store, worker: WorkerRef) -> None:
        """Every batch of a fenced worker is refused, and it claims nothing."""
        await ok(store, begin("a"))
        [row] = await store.workers()
        await store.take_over(row)
        done = await store.commit(worker, [begin("b"), outside(KvSet("g", "k", b"1"))], Claim(5, {"h": 5}))

        assert done.outcomes == [Refused("worker_epoch", worker.epoch + 1)] * 2
        assert done.claimed == []
        assert await store.run("b") is None
        assert await statuses(store, "a") == ["ready"]

    async def test_a_worker_that_was_forgotten_commits_nothing(self, store: Store, worker: WorkerRef) -> None:
        """Once its row is gone, a zombie is refused, and its number is not given again."""
        await store.retire(worker)
        again = await store.register("b", "", [])
        [outcome] = (await store.commit(worker, [begin("b")])).outcomes

        assert outcome == Refused("worker_epoch", None)
        assert again.id > worker.id

    async def test_a_turn_of_an_earlier_epoch_is_refused(self, store: Store, worker: WorkerRef) -> None:
        """After a run was claimed anew, what its former owner still sends is refused."""
        await ok(store, begin("a"))
        [before] = await take(store, worker)
        [row] = await store.workers()
        await store.take_over(row)
        other = await store.register("w2", "", ["h"])
        [after] = await take(store, other)
        outcome = await one(store, speak(before, KvSet("g", "k", b"1"), entries=[entry(1)]), other)

        assert after.epoch > before.epoch
        assert outcome == Refused("run_epoch", after.epoch)
        assert await store.kv_get("g", "k") is None
        assert await one(store, speak(after, entries=[entry(1)]), other) == APPLIED

    async def test_a_run_that_is_not_running_is_not_written(self, store: Store, worker: WorkerRef) -> None:
        """A batch speaks for a run only while that is running: not before, not after, not for none."""
        await ok(store, begin("a"), begin("b", claim=True), worker=worker)
        ready, ended = await known(store, "a"), await known(store, "b")
        await ok(store, speak(ended, Finish("finish")), worker=worker)
        ready.epoch = 0
        for run in (ready, ended):
            assert isinstance(await one(store, speak(run, entries=[entry(1)]), worker), Refused)
            assert await store.entries(run.id, 0) == []
        ended.id = 999_999
        assert await one(store, speak(ended, entries=[entry(1)]), worker) == Refused("run_epoch", None)

    async def test_light_and_heavy_batches_of_one_run_travel_together(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """In one group a run may add entries, be asked something and end; what follows is refused."""
        await ok(store, begin("a", claim=True), worker=worker)
        run = await known(store, "a")
        done = await store.commit(
            worker,
            [
                speak(run, entries=[entry(1, seq=1)]),
                outside(Control("a", "cancel")),
                speak(run, entries=[entry(2, seq=2)]),
                speak(run, Finish("cancel"), entries=[entry(3, seq=3)]),
                speak(run, entries=[entry(4, seq=4)]),
            ],
        )

        assert [isinstance(outcome, Applied) for outcome in done.outcomes] == [True, True, True, True, False]
        assert [e.pos for e in await store.entries(run.id, 0)] == [1, 2, 3]
        assert [ended.rid for ended in done.ended] == ["a"]
        assert await statuses(store, "a") == ["cancelled"]

    async def test_an_entry_replaces_the_one_at_its_address(self, store: Store, worker: WorkerRef) -> None:
        """A start mark becomes the result, in another group or in the same."""
        await ok(store, begin("a", claim=True), worker=worker)
        run = await known(store, "a")
        await ok(store, speak(run, entries=[entry(1, None, state=MARK)]), worker=worker)
        await ok(store, speak(run, entries=[entry(1, b"2", seq=1)]), worker=worker)
        await ok(
            store,
            speak(run, entries=[entry(2, None, state=MARK)]),
            speak(run, entries=[entry(2, b"3", seq=2)]),
            worker=worker,
        )

        assert await store.entries(run.id, 0) == [entry(1, b"2", seq=1), entry(2, b"3", seq=2)]

    async def test_entries_keep_the_results_of_their_changes(self, store: Store, worker: WorkerRef) -> None:
        """An entry that waits for a result has it in the journal, and in the caller's hands."""
        await store.subscribe([Subscription("t", "x")], ["x"])
        await ok(store, begin("a", claim=True), outside(KvSet("g", "k", b"5")), worker=worker)
        run = await known(store, "a")
        waiting = [entry(n, None, seq=n, state=RESULT) for n in (1, 2, 3)]
        plain = entry(4, b"9", seq=4)
        changes: list[Change] = [
            KvSet("g", "k", b"6"),
            KvUpdate("g", "k", [{"type": "increment", "path": "", "by": 1}]),
            Publish("m_7", "t", b"1"),
        ]
        await ok(store, speak(run, *changes, entries=[plain, *waiting]), worker=worker)

        expected = [entry(1, b"5", seq=1), entry(2, b"[6,7]", seq=2), entry(3, b'"m_7"', seq=3), plain]
        assert waiting == expected[:3]
        assert await store.entries(run.id, 0) == expected

    async def test_an_entry_that_names_its_message_takes_no_result(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """A gathered enqueue knows its message beforehand: the next entry gets its own result."""
        await ok(store, begin("a", claim=True), outside(KvSet("g", "k", b"5")), worker=worker)
        run = await known(store, "a")
        entries = [entry(1, b'"m_7"', seq=1), entry(2, None, seq=2, state=RESULT)]
        await ok(
            store,
            speak(run, Publish("m_7", "t", b"1"), KvSet("g", "k", b"6"), entries=entries),
            worker=worker,
        )

        assert [e.value for e in await store.entries(run.id, 0)] == [b'"m_7"', b"5"]

    async def test_a_refused_batch_gives_its_entries_no_results(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """What was refused may be sent again as it is."""
        await ok(store, begin("a", claim=True), worker=worker)
        run = await known(store, "a")
        waiting = entry(1, None, state=RESULT)
        stale = speak(run, KvSet("g", "k", b"6"), entries=[waiting], guards=[KvVersion("g", "k", 3)])
        assert isinstance(await one(store, stale, worker), Refused)

        assert waiting == entry(1, None, state=RESULT)

    async def test_a_guard_on_a_version_holds_only_for_that_version(self, store: Store) -> None:
        """A key version guard refuses with the version there is; 0 means it does not exist."""
        fresh = outside(KvSet("g", "k", b"1"), guards=[KvVersion("g", "k", 0)])
        assert isinstance(await one(store, fresh), Applied)
        row = await store.kv_get("g", "k")
        assert row is not None
        assert await one(store, fresh) == Refused("kv_version", row.version)

        right = outside(KvSet("g", "k", b"2"), guards=[KvVersion("g", "k", row.version)])
        first, second = (await store.commit(None, [right, right])).outcomes
        assert isinstance(first, Applied)
        assert isinstance(second, Refused)
        assert second.current > row.version

    async def test_a_guard_on_a_promise_holds_only_while_it_is_open(self, store: Store) -> None:
        """Two decisions of one promise in one group: one has its effects, the other none."""
        await ok(store, begin("a"))

        def decide(who: str) -> list[Change]:
            return [Settle("a", "gate", OK, f'"{who}"'.encode(), who), Publish(f"m_{who}", "t", b"1")]

        batches = [outside(*decide(who), guards=[PromiseOpen("a", "gate")]) for who in ("alice", "bob")]
        first, second = (await store.commit(None, batches)).outcomes
        third = await one(store, batches[1])

        assert isinstance(first, Applied)
        for refused in (second, third):
            assert isinstance(refused, Refused)
            assert refused.why == "promise"
            assert (refused.current.by, refused.current.value) == ("alice", b'"alice"')
        assert [message.mid for message in await store.unrouted()] == ["m_alice"]

    async def test_guards_of_unknown_runs_are_refused(self, store: Store) -> None:
        """A promise, a settlement or a control of a run nobody knows is refused by its name."""
        for batch in (
            outside(guards=[PromiseOpen("no", "p")]),
            outside(Settle("no", "p", OK, b"1")),
            outside(Control("no", "cancel")),
        ):
            assert await one(store, batch) == Refused("unknown_run", "no")

    async def test_a_run_created_and_controlled_in_one_group_is_both(
        self, store: Store, worker: WorkerRef
    ) -> None:
        """What later batches do to a run of their own group is not lost."""
        await ok(
            store,
            begin("a", claim=True),
            outside(Control("a", "cancel")),
            begin("b"),
            outside(Control("b", "cancel")),
            begin("c"),
            outside(Settle("c", "p", OK, b"1")),
            worker=worker,
        )
        a, b, c = [await known(store, rid) for rid in "abc"]

        assert (a.status, a.asked, a.wakes) == (Status.RUNNING, 1, 1)
        assert (b.status, b.finished_at is not None) == (Status.CANCELLED, True)
        assert (c.status, c.wakes) == (Status.READY, 1)

    async def test_what_cannot_be_written_writes_nothing(self, store: Store, worker: WorkerRef) -> None:
        """An exception means that nothing of the group was written; the store goes on."""
        await ok(store, begin("a", claim=True), worker=worker)
        run = await known(store, "a")
        poison = speak(run, entries=[entry(1, lane="\ud800")])
        with pytest.raises(Exception, match="surrogate"):
            await store.commit(worker, [begin("b"), poison, outside(KvSet("g", "k", b"1"))])

        assert await store.run("b") is None
        assert await store.kv_get("g", "k") is None
        await ok(store, begin("b"), speak(run, entries=[entry(1)]), worker=worker)

    async def test_a_message_sent_twice_is_not_two(self, store: Store) -> None:
        """A message id that has runs already is never published again."""
        await store.subscribe([Subscription("t", "h")], ["h"])
        first, second = (await store.commit(None, [publish("m_1"), publish("m_1", data=b"2")])).outcomes

        assert first == Applied([Published("m_1", ("h",))])
        assert isinstance(second, Refused)
        assert second.why == "id_taken"
        with pytest.raises(Exception, match=r"(?i)unique"):
            await store.commit(None, [publish("m_1", data=b"3"), begin("neighbour")])
        assert (await known(store, "r_1")).input == b"1"
        assert await store.run("neighbour") is None

    async def test_names_come_back_as_they_are_or_are_refused(self, store: Store) -> None:
        """A name with quotes, a zero byte or any letter is kept exactly, or nothing is written."""
        for name in ('it\'s "quoted"', "ünï", "%_\\", "a\x00b", "", "0"):
            try:
                await ok(store, outside(KvSet(name, name, b"1")), begin("r" + name, name, key=name))
                await ok(store, outside(KvUpdate(name, name, [{"type": "increment", "path": "", "by": 1}])))
            except AssertionError:
                raise
            except Exception:
                assert "\x00" in name
                assert await store.kv_list(name.replace("\x00", "")) == []
                continue
            row = await store.kv_get(name, name)
            assert row is not None
            assert (row.group, row.key, row.value) == (name, name, b"2")
            assert (await known(store, "r" + name)).key == name

    async def test_begin_answers_whether_it_made_the_run(self, store: Store) -> None:
        """A taken id attaches to the run that has it; the first input stays."""
        [first, second] = await ok(store, begin("a", input=b"1"), begin("a", input=b"2"))
        [third] = await ok(store, begin("a", input=b"3"))

        assert [first.created, second.created, third.created] == [True, False, False]
        assert isinstance(third, Begun)
        assert third.run.rid == "a"
        assert third.run.input == b"1"
