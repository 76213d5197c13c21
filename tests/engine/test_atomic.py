"""What an atomic block promises: all or nothing, and only if what it read is still so."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from everstep.core.batch import Mode
from everstep.core.retry import Retry
from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.engine.effects import Effects
from everstep.engine.engine import Engine
from everstep.engine.registry import Ended, Handler, Registry
from everstep.errors import StateChanged
from everstep.settings import Settings
from everstep.store.base import Subscription
from everstep.store.sqlite import SqliteStore

pytestmark = pytest.mark.anyio

ONE_MORE = [{"type": "increment", "path": "n"}]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def engine(tmp_path: Path, registry: Registry) -> AsyncIterator[Engine]:
    engine = Engine(SqliteStore(f"sqlite:///{tmp_path}/runs.db"), registry, Settings())
    await engine.start(work=False)
    yield engine
    await engine.stop()


async def value(engine: Engine, key: str) -> Any:
    row = await engine.store.kv_get("g", key)
    return None if row is None else json.loads(row.value)


async def test_of_two_blocks_that_read_one_key_one_is_applied(engine: Engine) -> None:
    """Load, check, change: whoever commits second is refused as a whole."""
    await engine.kv_set("g", "order", b'"waiting"')
    both_have_read = asyncio.Barrier(2)

    async def decide(who: str) -> None:
        effects = engine.effects(trace=who)
        async with effects.atomic():
            assert await effects.kv_get("g", "order") == b'"waiting"'
            await both_have_read.wait()
            await effects.kv_set("g", "order", json.dumps(who).encode())
            await effects.kv_set("g", f"by-{who}", b"1")

    outcomes = await asyncio.gather(decide("a"), decide("b"), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes if outcome] == [StateChanged]
    winner = await value(engine, "order")
    assert [await value(engine, f"by-{who}") for who in "ab"] == [
        1 if who == winner else None for who in "ab"
    ]


async def test_a_key_that_was_not_there_must_still_not_be_there(engine: Engine) -> None:
    """Create-if-absent is decided by the commit, not by the read before it."""
    effects = engine.effects(trace="t")

    with pytest.raises(StateChanged):
        async with effects.atomic():
            assert await effects.kv_get("g", "k") is None
            await engine.kv_set("g", "k", b"1")
            await effects.kv_set("g", "k", b"2")

    assert await value(engine, "k") == 1


async def test_a_key_that_changed_and_changed_back_is_changed(engine: Engine) -> None:
    """What is compared is the version of a key, not its value."""
    await engine.kv_set("g", "k", b"1")
    effects = engine.effects(trace="t")

    with pytest.raises(StateChanged):
        async with effects.atomic():
            await effects.kv_get("g", "k")
            await engine.kv_delete("g", "k")
            await engine.kv_set("g", "k", b"1")
            await effects.kv_set("g", "other", b"1")

    assert await value(engine, "other") is None


async def test_a_relative_update_is_not_refused(engine: Engine) -> None:
    """What was not read may change meanwhile: the update is applied to what is there then."""
    effects = engine.effects(trace="t")

    async with effects.atomic():
        await effects.kv_update("g", "count", ONE_MORE)
        await engine.kv_update("g", "count", ONE_MORE)
        await effects.kv_set("g", "written", b"1")

    assert (await value(engine, "count"), await value(engine, "written")) == ({"n": 2}, 1)


async def test_a_decision_on_ones_own_update_is_held_to_what_it_was_computed_from(engine: Engine) -> None:
    """Reading back a gathered update reads the key it was computed from."""
    effects = engine.effects(trace="t")

    with pytest.raises(StateChanged):
        async with effects.atomic():
            await effects.kv_update("g", "count", ONE_MORE)
            assert await effects.kv_get("g", "count") == b'{"n":1}'
            await engine.kv_update("g", "count", ONE_MORE)

    assert await value(engine, "count") == {"n": 1}


async def test_a_block_that_only_reads_commits_nothing_and_is_never_refused(engine: Engine) -> None:
    """Without a write there is nothing to guard."""
    effects = engine.effects(trace="t")

    async with effects.atomic():
        await effects.kv_get("g", "k")
        await engine.kv_set("g", "k", b"1")


async def test_a_read_outside_a_block_guards_nothing(engine: Engine) -> None:
    """Live effects are as they were: each on its own."""
    effects = engine.effects(trace="t")
    await effects.kv_get("g", "k")
    await engine.kv_set("g", "k", b"1")

    async with effects.atomic():
        await effects.kv_set("g", "k", b"2")

    assert await value(engine, "k") == 2


async def test_a_block_may_be_tried_again(engine: Engine) -> None:
    """After a refusal the same effects can load afresh and succeed."""
    effects = engine.effects(trace="t")
    interfere = [b"10", None]

    for by_others in interfere:
        try:
            async with effects.atomic():
                seen = int(await effects.kv_get("g", "k") or b"0")
                if by_others is not None:
                    await engine.kv_set("g", "k", by_others)
                await effects.kv_set("g", "k", b"%d" % (seen + 1))
        except StateChanged:
            assert by_others is not None

    assert await value(engine, "k") == 11


@pytest.mark.parametrize("gather", [False, True])
async def test_a_run_whose_block_is_refused_is_tried_again(
    tmp_path: Path, registry: Registry, gather: bool
) -> None:
    """In a message the error is a failed attempt like any other, with effects gathered to its end too."""
    attempts = 0
    own = Engine(SqliteStore(f"sqlite:///{tmp_path}/runs.db"), registry, Settings())

    async def call(attempt: Attempt) -> Ended:
        nonlocal attempts
        attempts += 1
        await _add_one(own, attempt.effects, disturb=attempts == 1)
        return Ended()

    registry.add(
        Handler(
            name="add",
            mode=Mode.RETRY,
            call=call,
            retry=Retry(attempts=2, delay=0),
            gather=gather,
            subscriptions=(Subscription("t", "add"),),
        )
    )
    await own.start()
    try:
        sent = await own.publish("t", b"null")
        run = await own.result(f"r_{sent.mid[2:]}", timeout=10)
        total = await value(own, "k")
    finally:
        await own.stop()

    assert (run.state, attempts, total) == (Status.DONE, 2, 11)


async def _add_one(engine: Engine, effects: Effects, *, disturb: bool) -> None:
    async with effects.atomic():
        seen = int(await effects.kv_get("g", "k") or b"0")
        if disturb:
            await engine.kv_set("g", "k", b"10")
        await effects.kv_set("g", "k", b"%d" % (seen + 1))


async def test_a_block_inside_a_wider_one_takes_back_only_its_own(engine: Engine) -> None:
    """A failure that the handler survives undoes the block it left, and nothing before it."""
    effects = engine.effects(trace="t", gather=True)
    await effects.kv_set("g", "before", b"1")
    await effects.kv_set("g", "k", b"1")

    with pytest.raises(RuntimeError):
        async with effects.atomic():
            await effects.kv_set("g", "k", b"2")
            await effects.kv_get("g", "unheard")
            raise RuntimeError

    assert await effects.kv_get("g", "k") == b"1"
    await engine.kv_set("g", "unheard", b"1")  # what the block read does not matter any more
    await effects.flush()
    assert [await value(engine, key) for key in ("before", "k")] == [1, 1]


async def test_what_a_sibling_does_is_not_gathered(engine: Engine) -> None:
    """A block is of the task that entered it: beside it, effects are on disk when their await returns."""
    effects = engine.effects(trace="t")
    inside, written = asyncio.Event(), asyncio.Event()

    async def fails() -> None:
        async with effects.atomic():
            await effects.kv_set("g", "mine", b"1")
            inside.set()
            await written.wait()
            raise RuntimeError

    async def sibling() -> None:
        await inside.wait()
        await effects.kv_set("g", "live", b"1")
        assert await value(engine, "live") == 1
        assert await effects.kv_get("g", "mine") is None
        written.set()

    await asyncio.gather(fails(), sibling(), return_exceptions=True)

    assert [await value(engine, key) for key in ("mine", "live")] == [None, 1]


async def test_blocks_side_by_side_commit_and_fail_each_on_its_own(engine: Engine) -> None:
    """Ten items handled at once: a block is on disk when it ends, and takes no other with it."""
    effects = engine.effects(trace="t")
    all_inside = asyncio.Barrier(10)

    async def handle(item: int) -> None:
        async with effects.atomic():
            await effects.kv_set("g", f"a{item}", b"1")
            await all_inside.wait()
            await effects.kv_set("g", f"b{item}", b"1")
            if item % 2:
                raise RuntimeError
        assert (await value(engine, f"a{item}"), await value(engine, f"b{item}")) == (1, 1)

    outcomes = await asyncio.gather(*map(handle, range(10)), return_exceptions=True)

    assert [isinstance(outcome, RuntimeError) for outcome in outcomes] == [False, True] * 5
    assert [await value(engine, f"a{item}") for item in range(10)] == [1, None] * 5


async def test_tasks_started_inside_a_block_belong_to_it(engine: Engine) -> None:
    """Work that a block spreads over tasks is gathered; a task that outlives the block is live."""
    effects = engine.effects(trace="t")
    block_ended = asyncio.Event()

    async def late() -> None:
        await block_ended.wait()
        await effects.kv_set("g", "late", b"1")

    async with effects.atomic():
        outliving = asyncio.create_task(late())
        await asyncio.gather(*(effects.kv_set("g", f"k{n}", b"1") for n in range(3)))
        assert await value(engine, "k0") is None
    block_ended.set()
    await outliving

    assert [await value(engine, key) for key in ("k0", "k1", "k2", "late")] == [1, 1, 1, 1]


async def test_blocks_of_two_effects_do_not_meet(engine: Engine) -> None:
    """Entering one block inside another's leaves each effect where it was asked."""
    one, other = engine.effects(trace="1"), engine.effects(trace="2")

    with pytest.raises(RuntimeError):
        async with one.atomic():
            async with other.atomic():
                await one.kv_set("g", "one", b"1")
                await other.kv_set("g", "other", b"1")
            assert await value(engine, "other") == 1
            raise RuntimeError

    assert await value(engine, "one") is None


async def test_reads_see_through_blocks_to_what_is_gathered_around_them(engine: Engine) -> None:
    """Lists and values are those of the innermost write, then of the wider ones, then of the store."""
    for key in ("a", "b", "c"):
        await engine.kv_set("g", key, b'"store"')
    effects = engine.effects(trace="t", gather=True)
    await effects.kv_set("g", "a", b'"attempt"')
    await effects.kv_set("h", "x", b"1")

    async with effects.atomic():
        assert await effects.kv_get("g", "a") == b'"attempt"'
        await effects.kv_set("g", "b", b'"block"')
        await effects.kv_delete("g", "c")
        assert await effects.kv_list("g") == [("a", b'"attempt"'), ("b", b'"block"')]
        assert await effects.kv_clear("h") == 1
        assert await effects.kv_list("h") == []

    assert await effects.kv_list("g") == [("a", b'"attempt"'), ("b", b'"block"')]
    assert await effects.kv_get("h", "x") is None
    await effects.flush()
    assert [row.value for row in await engine.store.kv_list("g")] == [b'"attempt"', b'"block"']


async def test_what_a_refused_block_had_asked_for_is_not_asked_twice(
    tmp_path: Path, registry: Registry
) -> None:
    """A block tried again in one attempt is the same block to the next: its message is sent once."""
    own = Engine(SqliteStore(f"sqlite:///{tmp_path}/runs.db"), registry, Settings())

    async def once(effects: Effects, *, disturb: bool) -> None:
        async with effects.atomic():
            await effects.kv_get("g", "k")
            if disturb:
                await own.kv_set("g", "k", b"10")
            await effects.publish("nobody", b"1")

    async def call(attempt: Attempt) -> Ended:
        if attempt.number == 1:
            with pytest.raises(StateChanged):
                await once(attempt.effects, disturb=True)
        await once(attempt.effects, disturb=False)
        if attempt.number == 1:
            raise RuntimeError("after the message was sent")
        return Ended()

    registry.add(
        Handler(
            name="send",
            mode=Mode.RETRY,
            call=call,
            retry=Retry(attempts=2, delay=0),
            subscriptions=(Subscription("t", "send"),),
        )
    )
    await own.start()
    try:
        sent = await own.publish("t", b"null")
        run = await own.result(f"r_{sent.mid[2:]}", timeout=10)
        unrouted = await own.store.unrouted()
    finally:
        await own.stop()

    assert run.state == Status.DONE
    assert [message.topic for message in unrouted] == ["nobody"]
