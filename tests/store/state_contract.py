"""Promises of every store: state, messages and who is subscribed."""

import asyncio
from collections.abc import Mapping

from everstep.core.batch import (
    Applied,
    Begin,
    Change,
    KvClear,
    KvDelete,
    KvSet,
    KvUpdate,
    Mode,
    Publish,
    Published,
    Refused,
)
from everstep.errors import UpdateError
from everstep.store.base import Store, Subscription, WorkerRef
from tests.store.making import (
    HOUR,
    SECOND,
    ManualClock,
    begin,
    known,
    ok,
    one,
    outside,
    publish,
    statuses,
    take,
)

INCREMENT = [{"type": "increment", "path": "n", "by": 1}]


async def values(store: Store, group: str) -> dict[str, bytes]:
    return {row.key: row.value for row in await store.kv_list(group)}


class StateContract:
    async def test_a_value_is_set_read_and_deleted(self, store: Store) -> None:
        """Each write answers the value before it, or None."""
        results = await ok(
            store,
            outside(KvSet("g", "k", b"1"), KvSet("g", "k", b"2")),
            outside(KvDelete("g", "k")),
            outside(KvDelete("g", "k"), KvSet("g", "k", b"3")),
        )

        assert results == [None, b"1", b"2", None, None]
        row = await store.kv_get("g", "k")
        assert row is not None
        assert (row.group, row.key, row.value) == ("g", "k", b"3")
        assert await store.kv_get("g", "other") is None

    async def test_versions_rise_with_every_write(self, store: Store) -> None:
        """Also after a delete: a key that was written again is not the one it was."""
        versions = []
        for change in (KvSet("g", "k", b"1"), KvUpdate("g", "k", []), KvSet("g", "k", b"1")):
            await ok(store, outside(change))
            row = await store.kv_get("g", "k")
            assert row is not None
            versions.append(row.version)
        await ok(store, outside(KvDelete("g", "k")), outside(KvSet("g", "k", b"1"), KvClear("g")))
        await ok(store, outside(KvClear("g")), outside(KvSet("g", "k", b"1")))
        row = await store.kv_get("g", "k")
        assert row is not None
        versions.append(row.version)

        assert versions == sorted(set(versions))

    async def test_a_group_is_listed_by_key_and_cleared(self, store: Store) -> None:
        """Clear removes what is there and what its own batch wrote, and says how many."""
        await ok(store, *(outside(KvSet("g", key, b"1")) for key in "cab"), outside(KvSet("h", "x", b"2")))
        assert [row.key for row in await store.kv_list("g")] == ["a", "b", "c"]
        assert await store.kv_groups() == [("g", 3), ("h", 1)]
        results = await ok(
            store, outside(KvSet("g", "d", b"1"), KvDelete("g", "a"), KvClear("g"), KvSet("g", "e", b"5"))
        )

        assert results[2] == 3
        assert await values(store, "g") == {"e": b"5"}
        assert await ok(store, outside(KvClear("g"), KvClear("g"))) == [1, 0]
        assert await store.kv_groups() == [("h", 1)]
        assert await values(store, "nothing") == {}

    async def test_bytes_and_large_values_are_values(self, store: Store) -> None:
        """Any bytes go in and come out; those that are not JSON take no update."""
        raw = b"\x00" + bytes(range(256)) * 1000
        await ok(store, outside(KvSet("g", "k", raw)))
        assert (await values(store, "g"))["k"] == raw
        outcome = await one(store, outside(KvUpdate("g", "k", INCREMENT)))

        assert isinstance(outcome, Refused)
        assert isinstance(outcome.current, UpdateError)

    async def test_updates_apply_to_what_is_there(self, store: Store) -> None:
        """Set, increment, decrement, append, merge, remove, on paths; missing values are made."""
        ops: list[Mapping[str, object]] = [
            {"type": "increment", "path": "n", "by": 2},
            {"type": "decrement", "path": "n"},
            {"type": "append", "path": "log", "value": "a"},
            {"type": "merge", "path": "who", "value": {"name": "ann"}},
            {"type": "set", "path": "who.age", "value": 7},
            {"type": "remove", "path": "gone"},
        ]
        [(old, new)] = await ok(store, outside(KvUpdate("g", "k", ops)))

        assert old is None
        assert new == b'{"n":1,"log":["a"],"who":{"name":"ann","age":7}}'
        assert (await values(store, "g"))["k"] == new

    async def test_an_update_that_does_not_fit_leaves_its_neighbours_alone(self, store: Store) -> None:
        """It is refused with the error; neither its batch nor anyone else's value is touched."""
        await ok(store, outside(KvSet("g", "k", b'{"n":"text"}')))
        bad = outside(KvSet("g", "other", b"1"), KvUpdate("g", "k", INCREMENT))
        good = outside(KvUpdate("g", "fine", INCREMENT))
        first, second, third = (await store.commit(None, [good, bad, good])).outcomes

        assert isinstance(second, Refused)
        assert second.why == "update"
        assert isinstance(second.current, UpdateError)
        assert isinstance(first, Applied)
        assert isinstance(third, Applied)
        assert await values(store, "g") == {"k": b'{"n":"text"}', "fine": b'{"n":2}'}

    async def test_no_update_is_lost_between_processes(self, store: Store, other: Store) -> None:
        """Two processes that count in the same key at once count every one, also from nothing."""

        async def count(store: Store) -> None:
            for _ in range(25):
                await ok(store, *(outside(KvUpdate("g", key, INCREMENT)) for key in "ab"))

        async def backwards(store: Store) -> None:
            for _ in range(25):
                await ok(store, *(outside(KvUpdate("g", key, INCREMENT)) for key in "ba"))

        await asyncio.gather(count(store), backwards(other))

        assert await values(store, "g") == {"a": b'{"n":50}', "b": b'{"n":50}'}

    async def test_a_clear_and_a_count_at_once_are_one_after_the_other(
        self, store: Store, other: Store
    ) -> None:
        """A group that is cleared while another process counts in it holds only what came after."""
        for _ in range(15):
            await ok(store, outside(KvSet("g", "a", b'{"n":5}')))
            [cleared], [(old, _)] = await asyncio.gather(
                ok(store, outside(KvClear("g"))), ok(other, outside(KvUpdate("g", "a", INCREMENT)))
            )
            left = await values(store, "g")
            assert cleared == 1
            assert left == ({"a": b'{"n":1}'} if old is None else {})

    # ---- messages

    async def test_every_subscriber_gets_a_run_of_its_own(self, store: Store, worker: WorkerRef) -> None:
        """A message becomes one run for each Step of its topic, and carries where it came from."""
        await store.subscribe(
            [Subscription("t", "a"), Subscription("t", "b"), Subscription("u", "a")], ["a", "b"]
        )
        [published] = await ok(
            store, publish("m_1", data=b"5", hops=3, trace="abc", priority=4, group="ignored here")
        )

        assert published == Published("m_1", ("a", "b"))
        runs = [await known(store, rid) for rid in ("r_1", "r_1-1")]
        assert [run.handler for run in runs] == ["a", "b"]
        for run in runs:
            assert (run.mode, run.topic, run.input, run.key) == (Mode.RETRY, "t", b"5", None)
            assert (run.hops, run.trace, run.priority) == (3, "abc", 4)
        assert await store.unrouted() == []

    async def test_a_message_names_its_own_delay_or_takes_the_steps(
        self, store: Store, clock: ManualClock
    ) -> None:
        """A delay of 0 is a delay: at once, whatever the subscription says."""
        await store.subscribe([Subscription("t", "h", delay=HOUR), Subscription("u", "h")], ["h"])
        await ok(
            store,
            publish("m_1"),
            publish("m_2", delay=0),
            publish("m_3", delay=2 * HOUR),
            publish("m_4", "u", delay=HOUR),
        )

        assert await statuses(store, "r_1", "r_2", "r_3", "r_4") == ["scheduled", "ready", *["scheduled"] * 2]
        dues = [((await known(store, f"r_{n}")).due_at or 0) - clock.us for n in (1, 3, 4)]
        assert [round(due / SECOND) for due in dues] == [3600, 7200, 3600]

    async def test_a_fifo_topic_wants_a_group(self, store: Store) -> None:
        """Without one the batch is refused, naming topic and Step, also for the Steps that would do."""
        await store.subscribe(
            [Subscription("t", "free"), Subscription("t", "strict", fifo=True)], ["free", "strict"]
        )

        assert await one(store, publish("m_1")) == Refused("group_missing", ("t", "strict"))
        assert await store.run("r_1") is None
        await ok(store, publish("m_2", group="g"))
        assert (await known(store, "r_2")).key is None
        assert (await known(store, "r_2-1")).key == "g"

    async def test_subscriptions_are_replaced_for_the_handlers_named(self, store: Store) -> None:
        """A new release of one program changes its own Steps' subscriptions, and nobody else's."""
        await store.subscribe([Subscription("t", "a"), Subscription("u", "a")], ["a"])
        await store.subscribe([Subscription("t", "b", fifo=True, delay=5)], ["b"])
        await store.subscribe([Subscription("u", "a")], ["a", "gone"])
        assert await store.subscriptions() == [
            Subscription("t", "b", fifo=True, delay=5),
            Subscription("u", "a"),
        ]
        await ok(store, publish("m_1", group="g"))
        assert [run.handler for run in await store.runs()] == ["b"]
        await store.subscribe([], ["b"])

        assert await store.subscriptions() == [Subscription("u", "a")]
        await ok(store, publish("m_2"))
        assert [message.mid for message in await store.unrouted()] == ["m_2"]

    async def test_a_subscription_holds_in_every_process_at_once(self, store: Store, other: Store) -> None:
        """A process that published before sees the new subscriber with its next message."""
        await ok(other, publish("m_0", "u"))
        await store.subscribe([Subscription("t", "a")], ["a"])
        [first] = await ok(other, publish("m_1"))
        await other.subscribe([Subscription("t", "b")], ["b"])
        [second] = await ok(store, publish("m_2"))
        [third] = await ok(other, publish("m_3"))

        assert first.handlers == ("a",)
        assert second.handlers == third.handlers == ("a", "b")

    async def test_processes_that_start_at_once_all_subscribe(self, store: Store, other: Store) -> None:
        """Two that subscribe at the same moment lose neither."""
        for n in range(8):
            await asyncio.gather(
                store.subscribe([Subscription(f"t{n}", "a")], ["a"]),
                other.subscribe([Subscription(f"t{n}", "b")], ["b"]),
            )
            assert await store.subscriptions() == [Subscription(f"t{n}", "a"), Subscription(f"t{n}", "b")]

    async def test_messages_nobody_wants_wait_for_a_subscriber(
        self, store: Store, worker: WorkerRef, clock: ManualClock
    ) -> None:
        """Kept and visible, they become runs in their order once somebody subscribes."""
        await ok(
            store, *(publish(f"m_{n}", trace="x", hops=2, priority=1) for n in range(3)), publish("m_9", "u")
        )
        await ok(store, publish("m_4", delay=2 * HOUR), publish("m_5", delay=HOUR // 2))
        assert [message.mid for message in await store.unrouted()] == [
            "m_5",
            "m_4",
            "m_9",
            "m_2",
            "m_1",
            "m_0",
        ]
        assert [message.mid for message in await store.unrouted(2)] == ["m_5", "m_4"]
        first = (await store.unrouted())[-1]
        assert (first.topic, first.data) == ("t", b"1")
        assert clock.us - SECOND < first.at <= clock.us
        clock.skip(HOUR)
        await store.subscribe([Subscription("t", "h")], ["h"])

        assert [message.mid for message in await store.unrouted()] == ["m_9"]
        assert [run.rid for run in await take(store, worker)] == ["r_0", "r_1", "r_2", "r_5"]
        run = await known(store, "r_0")
        assert (run.trace, run.hops, run.priority, run.topic) == ("x", 2, 1, "t")
        late = await known(store, "r_4")
        assert late.state.label == "scheduled"
        assert round(((late.due_at or 0) - clock.us) / SECOND) == 3600

    async def test_a_message_a_new_step_cannot_take_stays_visible(self, store: Store) -> None:
        """One without a group waits on when a FIFO Step subscribes; those with a group go in order."""
        await ok(store, publish("m_1"), publish("m_2", group="g"), publish("m_3", group="g"))
        await store.subscribe([Subscription("t", "h", fifo=True)], ["h"])

        assert [message.mid for message in await store.unrouted()] == ["m_1"]
        assert await statuses(store, "r_2", "r_3") == ["ready", "queued"]

    async def test_thousands_of_waiting_messages_are_adopted(self, store: Store) -> None:
        """All of them, however many there are."""
        await ok(store, *(publish(f"m_{n}") for n in range(2_500)))
        await store.subscribe([Subscription("t", "h")], ["h"])

        assert sum((await store.counts()).values()) == 2_500
        assert await store.unrouted() == []

    async def test_a_publish_and_a_begin_may_share_a_batch(self, store: Store) -> None:
        """The marker, the message and the run of one atomic block are one batch."""
        await store.subscribe([Subscription("t", "h")], ["h"])
        changes: list[Change] = [
            KvSet("order", "1", b'"sent"'),
            Publish("m_1", "t", b"1"),
            Begin("other", "h", Mode.REPLAY, b""),
        ]
        results = await ok(store, outside(*changes))

        assert [type(result).__name__ for result in results] == ["NoneType", "Published", "Begun"]
        assert await statuses(store, "r_1", "other") == ["ready", "ready"]
        assert await ok(store, begin("other"))
