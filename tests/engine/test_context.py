"""`ctx` in a body: what may be asked, where, and that its answers never vary."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everstep.clock import as_datetime
from everstep.engine.context import Context
from everstep.engine.turn import TurnEnd
from everstep.errors import ConfigError, ContextClosed, TerminalError
from tests.engine.programs import Boom
from tests.engine.world import START, World, calm

pytestmark = pytest.mark.anyio


async def test_time_and_chance_are_the_same_on_every_pass_and_shift_nothing() -> None:
    """now, uuid and random need no entry, and take no position from what does."""
    seen: list[list[Any]] = []

    async def body(ctx: Context, _: Any) -> None:
        drawn = [ctx.now(), ctx.uuid(), ctx.uuid(), ctx.random()]
        seen.append(drawn)

        async def branch() -> None:
            await ctx.run(world.io)
            drawn.extend([ctx.now(), ctx.uuid(), ctx.random()])

        await asyncio.gather(branch(), branch())

    world = World(body)
    await world.to_the_end()
    await world.replay()

    assert seen[0] == seen[1]
    assert seen[0][0] == as_datetime(START)
    assert seen[0][0].tzinfo is UTC
    drawn = [value for value in seen[0] if not isinstance(value, datetime)]
    assert len(set(drawn)) == len(drawn)
    assert [entry.address for entry in world.journal.values()] == ["0/1.0", "0/0.0"]


async def test_another_generation_draws_other_numbers_and_other_keys() -> None:
    """A run that began anew is not taken for its former self, by nobody."""

    async def body(ctx: Context, _: Any) -> list[str]:
        return [str(ctx.uuid()), await ctx.run(key)]

    async def key() -> str:
        from everstep.engine.context import attempt

        return attempt().idempotency_key

    first, second = World(body), World(body)
    second.run.generation = 1

    assert set(await first.to_the_end()).isdisjoint(await second.to_the_end())


async def test_a_sleep_counts_from_the_last_answer_and_survives_the_process() -> None:
    """A restart does not start it anew; ctx.now() is then when it ended, not earlier."""

    async def body(ctx: Context, _: Any) -> list[str]:
        before = ctx.now()
        await ctx.sleep("3d")
        return [before.isoformat(), ctx.now().isoformat()]

    world = World(body)
    assert await world.go() is TurnEnd.PARKED
    world.drive = None
    world.clock += 3_600_000_000
    assert await world.go() is TurnEnd.PARKED
    assert world.parked is not None
    assert world.parked.due_at == START + timedelta(days=3) // timedelta(microseconds=1)
    before, after = map(datetime.fromisoformat, await world.to_the_end())

    assert after - before >= timedelta(days=3)


async def test_asyncio_sleep_is_as_durable() -> None:
    """The plain call is a timer of the journal; sleep(0) is none; for ever needs no due time."""

    async def body(ctx: Context, _: Any) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(86_400)
        await asyncio.sleep(float("inf"))

    world = World(body)
    assert await world.go() is TurnEnd.PARKED
    world.wait_out()
    assert await world.go() is TurnEnd.PARKED

    assert [(e.kind, e.address) for e in world.journal.values()] == [("timer", "0.0")]
    assert world.parked is not None
    assert world.parked.due_at is None


async def test_a_promise_is_answered_in_its_type_or_by_its_error() -> None:
    """What was settled is read as declared, on the first pass and on replay."""

    async def body(ctx: Context, _: Any) -> list[Any]:
        day = await ctx.promise("day", datetime).wait()
        try:
            await ctx.promise("signature")
        except TerminalError as error:
            return [day.year, type(error).__name__, str(error)]
        return []

    from everstep.core.failure import encode_error
    from everstep.core.journal import ERROR

    world = World(body)
    world.settle("day", b'"2030-01-02T03:04:05Z"')
    world.settle("signature", encode_error(Boom("not me")), ERROR)
    first = await world.to_the_end()

    assert first == [2030, "Boom", "not me"]
    assert await world.replay() == first


async def test_a_promise_settled_with_what_does_not_fit_sets_the_run_aside() -> None:
    """The body could do nothing with it."""

    async def body(ctx: Context, _: Any) -> Any:
        return await ctx.promise("number", int)

    world = World(body)
    world.settle("number", b'"three"')

    assert await world.go() is TurnEnd.SET_ASIDE


# ---- where ctx may be used


async def closed(function: Any) -> ContextClosed:
    """What `ctx.run` raises when a function of ctx.run asks for it, in its own way."""
    caught: list[ContextClosed] = []

    async def body(ctx: Context, _: Any) -> None:
        async def outer() -> None:
            try:
                await function(ctx)
            except ContextClosed as error:
                caught.append(error)

        await ctx.run(outer, name="outer")

    world = World(body)
    world.claim()
    while not world.commits:  # noqa: ASYNC110  # a thread may be at work
        await asyncio.sleep(0)
    await world.to_the_end()
    assert [entry.name for entry in world.journal.values()] == ["outer"]
    return caught[0]


async def tick() -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    "ask",
    [
        lambda ctx: ctx.run(tick),
        lambda ctx: ctx.sleep(1),
        lambda ctx: ctx.promise("p").wait(),
        lambda ctx: asyncio.create_task(ctx.run(tick)),
        lambda ctx: asyncio.gather(ctx.run(tick)),
    ],
)
async def test_inside_a_function_every_operation_is_refused(ask: Any) -> None:
    """Also from tasks the function made; the remedy is the line to write."""

    async def function(ctx: Context) -> None:
        await ask(ctx)

    error = await closed(function)

    assert "inside a function of ctx.run" in error.why
    assert "await ctx.run(charge, order)" in error.remedy


async def test_inside_a_function_time_and_chance_are_refused() -> None:
    """They belong to the body's lane."""

    async def function(ctx: Context) -> None:
        ctx.now()

    assert (await closed(function)).operation == "ctx.now"


async def test_a_thread_is_refused() -> None:
    """Its order among the body's own operations would be another each time."""

    async def function(ctx: Context) -> None:
        def thread() -> None:
            ctx.random()

        await asyncio.to_thread(thread)

    error = await closed(function)

    assert "ctx.random" in str(error)


async def test_a_task_a_function_left_behind_is_refused() -> None:
    """It asks while the body is being driven elsewhere, and gets an error, not an address."""
    caught: list[BaseException] = []
    left: list[asyncio.Task[None]] = []
    go = asyncio.Event()

    async def body(ctx: Context, _: Any) -> None:
        async def leaves() -> None:
            async def straggler() -> None:
                await go.wait()
                try:
                    await ctx.run(tick)
                except ContextClosed as error:
                    caught.append(error)

            left.append(asyncio.create_task(straggler()))

        await ctx.run(leaves)
        await ctx.run(world.io)

    world = World(body)
    world.claim()
    await calm()
    world.land()
    go.set()
    await left[0]

    assert len(caught) == 1
    await world.to_the_end()
    assert len(world.journal) == 2


async def test_after_the_run_has_ended_ctx_raises() -> None:
    """A ctx that was kept is of no use to anybody."""
    kept: list[Context] = []

    async def body(ctx: Context, _: Any) -> None:
        kept.append(ctx)

    world = World(body)
    await world.to_the_end()
    with pytest.raises(BaseException, match="left memory"):
        await kept[0].run(tick)


async def test_an_operation_awaited_twice_is_pythons_own_error() -> None:
    """A coroutine can be awaited once."""

    async def body(ctx: Context, _: Any) -> str:
        once = ctx.run(tick)
        await once
        try:
            await once
        except RuntimeError as error:
            return str(error)
        return ""

    assert "already awaited" in await World(body).to_the_end()


async def test_a_lambda_needs_a_name() -> None:
    """The journal knows calls by name, and a lambda has none."""

    async def body(ctx: Context, _: Any) -> int:
        with pytest.raises(ConfigError, match="name="):
            ctx.run(lambda: 1)  # type: ignore[unused-coroutine]
        return 1

    assert await World(body).to_the_end() == 1


# ---- logging


async def test_the_logger_says_each_thing_once(caplog: pytest.LogCaptureFixture) -> None:
    """A replay passes the same lines again and says nothing; the line is that of the caller."""

    async def body(ctx: Context, _: Any) -> None:
        ctx.logger.info("begun", {"a": 1}, b=2)  # noqa: PLE1205
        await ctx.run(world.io)
        ctx.logger.bind(c=3).info("called")
        await ctx.promise("signature")
        ctx.logger.info("signed")

    caplog.set_level(logging.INFO)
    world = World(body)
    await world.go()
    world.settle("signature", b"1")
    world.drive = None
    await world.go()

    records = [r for r in caplog.records if r.name == "everstep.body"]
    assert [r.getMessage() for r in records] == ["begun", "called", "signed"]
    assert {r.filename for r in records} == {"test_context.py"}
    fields: Any = [vars(r)["everstep_fields"] for r in records]
    assert fields[0] == {"step": "body", "run": "r_test", "a": 1, "b": 2}
    assert fields[1]["c"] == 3
