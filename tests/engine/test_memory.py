"""What a retry repeats: after any failures, all is as if the handler had run once."""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.core.batch import Mode
from everstep.core.retry import Retry
from everstep.core.status import Status
from everstep.engine.attempt import Attempt
from everstep.engine.calls import attempt
from everstep.engine.effects import Effects
from everstep.engine.engine import Engine
from everstep.engine.registry import Ended, Handler, Registry
from everstep.settings import Settings
from everstep.store.base import Subscription
from everstep.store.sqlite import SqliteStore

ONE_MORE = [{"type": "increment", "by": 1}]
State = dict[str, Any]
Call = Callable[[Attempt], Awaitable[None]]


async def after(
    call: Call, *, store: str = "sqlite://", before: State | None = None, **options: Any
) -> State:
    """The group "g" once a Step has ended that does this."""

    async def once(this: Attempt) -> Ended:
        await call(this)
        return Ended()

    registry = Registry()
    retry = Retry(attempts=10, delay=0)
    topic = (Subscription("t", "step"),)
    registry.add(Handler("step", Mode.RETRY, once, retry=retry, subscriptions=topic, **options))
    engine = Engine(SqliteStore(store), registry, Settings())
    await engine.start()
    try:
        for key, value in (before or {}).items():
            await engine.kv_set("g", key, json.dumps(value).encode())
        sent = await engine.publish("t", b"null")
        run = await engine.result(f"r_{sent.mid[2:]}", timeout=10)
        assert run.state is Status.DONE, run.error
        return {row.key: json.loads(row.value) for row in await engine.store.kv_list("g")}
    finally:
        await engine.stop()


def failing(times: int, do: Callable[[Effects], Awaitable[None]]) -> Call:
    """It does all of it, and then fails so many times."""

    async def call(this: Attempt) -> None:
        await do(this.effects)
        if this.number <= times:
            raise RuntimeError("on purpose")

    return call


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_an_update_after_a_set_is_not_lost(times: int) -> None:
    """A set that is made again takes the updates away that came after it: they are made again, too."""

    async def do(effects: Effects) -> None:
        await effects.kv_set("g", "n", b"0")
        await effects.kv_update("g", "n", ONE_MORE)

    assert await after(failing(times, do)) == {"n": 1}


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_an_update_before_a_set_is_made_once(times: int) -> None:
    """The order in which this attempt asks counts: this update was not overwritten for it yet."""
    seen: list[bytes] = []

    async def do(effects: Effects) -> None:
        seen.append((await effects.kv_update("g", "n", ONE_MORE))[1])
        await effects.kv_set("g", "n", b"5")

    assert await after(failing(times, do)) == {"n": 5}
    assert set(seen) == {b"1"}


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_group_that_was_cleared_at_the_end_is_empty(times: int) -> None:
    """Clear is an absolute write of all its keys: it is made again after a set that was."""

    async def do(effects: Effects) -> None:
        await effects.kv_set("g", "n", b"0")
        await effects.kv_clear("g")

    assert await after(failing(times, do), before={"m": 1}) == {}


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_the_last_write_of_a_block_wins_each_time(times: int) -> None:
    """Two writes of one key in an atomic block: a retry commits both or none of them."""

    async def do(effects: Effects) -> None:
        async with effects.atomic():
            await effects.kv_set("g", "order", b'"processing"')
            await effects.kv_set("g", "order", b'"done"')

    assert await after(failing(times, do)) == {"order": "done"}


@pytest.mark.anyio
async def test_a_write_of_a_block_that_failed_overwrote_nothing() -> None:
    """An update that an earlier attempt made is skipped, although a failed block would have wiped it."""

    async def call(this: Attempt) -> None:
        effects = this.effects
        if this.number == 2:
            with pytest.raises(RuntimeError):
                async with effects.atomic():
                    await effects.kv_set("g", "n", b"7")
                    raise RuntimeError("the block fails")
        await effects.kv_update("g", "n", ONE_MORE)
        if this.number < 3:
            raise RuntimeError("the attempt fails")

    assert await after(call) == {"n": 1}


@pytest.mark.anyio
@pytest.mark.parametrize("gather", [False, True])
async def test_the_time_is_that_of_the_first_attempt(gather: bool) -> None:
    """It is kept even if the effect it travelled with was refused, or all effects were dropped."""
    seen = set()

    async def call(this: Attempt) -> None:
        seen.add(this.effects.now())
        if not gather:
            with pytest.raises(Exception, match="increment"):
                await this.effects.kv_update("g", "text", ONE_MORE)
        if this.number < 3:
            raise RuntimeError("on purpose")

    await after(call, before={"text": "no number"}, gather=gather)

    assert len(seen) == 1


@pytest.mark.anyio
async def test_each_request_has_idempotency_keys_of_its_own() -> None:
    """Two requests of one trace, which a client may name, are two requests to a payment provider."""
    keys: list[str] = []

    async def charge() -> None:
        keys.append(attempt().idempotency_key)

    engine = Engine(SqliteStore("sqlite://"), Registry(), Settings())
    await engine.start(work=False)
    try:
        for _ in range(2):
            effects = engine.effects(trace="0af7651916cd43dd8448eb211c80319c")
            await effects.run(charge)
            await effects.run(charge)
    finally:
        await engine.stop()

    assert len(set(keys)) == 4


@pytest.mark.anyio
async def test_a_run_redriven_as_new_has_other_idempotency_keys() -> None:
    """What it forgets, a payment provider must not remember in its place."""
    keys: list[str] = []
    called = asyncio.Event()

    async def charge() -> None:
        keys.append(attempt().idempotency_key)
        called.set()

    async def call(this: Attempt) -> Ended:
        await this.effects.run(charge)
        raise RuntimeError("after it was charged")

    registry = Registry()
    once = Retry(attempts=1)
    registry.add(Handler("step", Mode.RETRY, call, retry=once, subscriptions=(Subscription("t", "step"),)))
    engine = Engine(SqliteStore("sqlite://"), registry, Settings())
    await engine.start()
    try:
        rid = f"r_{(await engine.publish('t', b'null')).mid[2:]}"
        await engine.result(rid, timeout=10)
        called.clear()
        await engine.control(rid, "redrive_new")
        await asyncio.wait_for(called.wait(), 10)
        await engine.result(rid, timeout=10)
    finally:
        await engine.stop()

    assert len(set(keys)) == 2


@pytest.mark.anyio
async def test_a_large_result_is_kept_beside_the_journal(tmp_path: Path) -> None:
    """What ctx.run answered travels outside the group, and comes back whole on a retry."""
    file, seen = tmp_path / "runs.db", []

    async def big() -> str:
        return "x" * 200_000

    async def call(this: Attempt) -> None:
        seen.append(await this.effects.run(big))
        if this.number == 1:
            raise RuntimeError("on purpose")

    await after(call, store=f"sqlite:///{file}")

    with closing(sqlite3.connect(file)) as db:
        [longest] = db.execute("SELECT max(length(value)) FROM entry").fetchone()
    assert longest < 64 << 10
    assert seen == ["x" * 200_000] * 2


# ---- any program, failing anywhere

OPS = st.one_of(
    st.tuples(st.just("set"), st.sampled_from("ab"), st.integers(0, 2)),
    st.tuples(st.just("update"), st.sampled_from("ab"), st.integers(1, 2)),
    st.tuples(st.just("delete"), st.sampled_from("ab"), st.just(0)),
    st.tuples(st.just("clear"), st.just(""), st.just(0)),
)
BLOCKS = st.lists(st.tuples(st.booleans(), st.lists(OPS, min_size=1, max_size=4)), min_size=1, max_size=4)


def expected(program: Sequence[tuple[bool, Sequence[tuple[str, str, int]]]]) -> State:
    state: State = {}
    for _, ops in program:
        for kind, key, number in ops:
            match kind:
                case "set":
                    state[key] = number
                case "update":
                    state[key] = state.get(key, 0) + number
                case "delete":
                    state.pop(key, None)
                case _:
                    state.clear()
    return state


async def _apply(effects: Effects, kind: str, key: str, number: int) -> None:
    match kind:
        case "set":
            await effects.kv_set("g", key, b"%d" % number)
        case "update":
            await effects.kv_update("g", key, [{"type": "increment", "by": number}])
        case "delete":
            await effects.kv_delete("g", key)
        case _:
            await effects.kv_clear("g")


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.lists(st.integers(0, 16), max_size=3))
def test_whatever_fails_wherever_the_state_is_as_if_it_had_run_once(
    program: list[tuple[bool, list[tuple[str, str, int]]]], failures: list[int]
) -> None:
    """Writes and updates, live and in blocks, with a failure after any of them in each of some attempts."""

    async def call(this: Attempt) -> None:
        left = failures[this.number - 1] if this.number <= len(failures) else -1

        async def one(op: tuple[str, str, int]) -> None:
            nonlocal left
            if left == 0:
                raise RuntimeError("on purpose")
            left -= 1
            await _apply(this.effects, *op)

        for whole, ops in program:
            if whole:
                async with this.effects.atomic():
                    for op in ops:
                        await one(op)
            else:
                for op in ops:
                    await one(op)
        if left > 0:
            raise RuntimeError("at the end")

    assert asyncio.run(after(call)) == expected(program)
